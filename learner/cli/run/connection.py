"""An operator's connection to the gateway of a run, for commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from learner.cli.run.place import RunPlace

if TYPE_CHECKING:
    from learner.gateway.operator_client import OperatorClient


@contextlib.contextmanager
def at_gateway(place: RunPlace) -> Iterator[OperatorClient]:
    """Opens an operator's connection to the gateway of a run, here in progress or elsewhere.

    Raises:
        RunError: the run is here and not in progress.
    """
    target = place.gateway()
    os.environ.setdefault(
        "GRPC_VERBOSITY", "NONE"
    )  # keeps gRPC's own lines off the terminal: an error is one line, ours
    from learner.gateway.operator_client import OperatorClient  # only now: gRPC takes a while to import

    with OperatorClient(target) as client:
        yield client
