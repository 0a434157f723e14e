"""Opens a run for commands: its files and Redis here, or a gateway of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from learner.cli.operate.operations import Operations
from learner.cli.run.connection import at_gateway
from learner.cli.run.identities import fleets_of
from learner.cli.run.place import RunPlace


@contextlib.contextmanager
def reading(place: RunPlace) -> Iterator[Operations]:
    """Opens a run for commands that change nothing: a directory is read itself, whether the run is in progress or not."""
    with _here(place) if place.target is None else _elsewhere(place) as operations:
        yield operations


@contextlib.contextmanager
def changing(place: RunPlace) -> Iterator[Operations]:
    """Opens a run for commands that change it: through a gateway, so that it is authenticated and written down.

    Only a run that is not in progress is changed in its directory.
    """
    through = place.target is not None or place.directory().is_locked()
    with _elsewhere(place) if through else _here(place) as operations:
        yield operations


@contextlib.contextmanager
def changing_fleet(place: RunPlace, name: str) -> Iterator[Operations]:
    """Opens a run for commands that change one fleet: what is in the identities file of its directory is changed there."""
    in_file = place.target is None and name in fleets_of(place.directory())
    with _here(place) if in_file else changing(place) as operations:
        yield operations


@contextlib.contextmanager
def _here(place: RunPlace) -> Iterator[Operations]:
    from learner.cli.operate.local_run import LocalRun

    with LocalRun(place.directory()) as run:
        yield run


@contextlib.contextmanager
def _elsewhere(place: RunPlace) -> Iterator[Operations]:
    with at_gateway(place) as client:
        from learner.cli.operate.remote_run import RemoteRun

        yield RemoteRun(client)
