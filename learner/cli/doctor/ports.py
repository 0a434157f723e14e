"""Checks that the addresses on which our processes will listen are free."""

from __future__ import annotations

from collections.abc import Iterator

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from learner.cli.run.run_directory import RunError
from learner.cli.up.commands import require_free

_RENDEZVOUS = 29_400  # torchrun's default


def ports(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that each address is free, unless the run itself is in progress and uses them."""
    if examined.run is not None and examined.run.is_locked():
        yield warn("ports", f"{examined.run.root}: the run is in progress", "its ports were not checked")
        return
    wanted = dict(_wanted(examined))
    taken = []
    for address, key in wanted.items():
        try:
            require_free(address, key)
        except RunError as error:
            taken.append(fail("ports", str(error).partition("; ")[0], "stop what listens there, or choose another"))
    yield from taken
    if not taken and wanted:
        yield ok("ports", f"{len(wanted)} free: {', '.join(address.rpartition(':')[2] for address in wanted)}")


def _wanted(examined: ExaminedConfig) -> Iterator[tuple[str, str]]:
    """The addresses, each with the setting that names it."""
    gateway, learner = examined.gateway, examined.learner
    if gateway is not None:
        yield gateway.listen, "gateway.listen"
        if gateway.status.listen:
            yield gateway.status.listen, "gateway status.listen"
    if learner is not None:
        if learner.status.listen:
            host, _, port = learner.status.listen.rpartition(":")
            for rank in range(examined.world or 1):
                yield f"{host}:{int(port) + rank}", f"learner status.listen + {rank}"
        if examined.kind == "learner":
            yield f"0.0.0.0:{_RENDEZVOUS}", "rendezvous (torchrun's --rdzv-endpoint)"
    for worker in examined.workers:
        if worker.status.listen:
            yield worker.status.listen, f"{worker.name} status.listen"
        if not worker.engine.urls:
            for index in range(worker.engine.count):
                yield f"127.0.0.1:{worker.engine.base_port + index}", f"{worker.name} engine.base_port + {index}"
