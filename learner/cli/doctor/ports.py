"""Addresses that our processes will listen on."""

from __future__ import annotations

from collections.abc import Iterator

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.subject import Subject
from learner.cli.run.run_directory import RunError
from learner.cli.up.commands import require_free

_RENDEZVOUS = 29_400  # torchrun's default


def ports(subject: Subject) -> Iterator[Finding]:
    """Each is free; of a run that is going on they are its own."""
    if subject.run is not None and subject.run.is_held():
        yield warn("ports", f"{subject.run.root}: this run is going on", "its ports were not looked at")
        return
    wanted = dict(_wanted(subject))
    taken = []
    for address, key in wanted.items():
        try:
            require_free(address, key)
        except RunError as error:
            taken.append(fail("ports", str(error).partition("; ")[0], "stop what listens there, or choose another"))
    yield from taken
    if not taken and wanted:
        yield ok("ports", f"{len(wanted)} free: {', '.join(address.rpartition(':')[2] for address in wanted)}")


def _wanted(subject: Subject) -> Iterator[tuple[str, str]]:
    gateway, learner = subject.gateway, subject.learner
    if gateway is not None:
        yield gateway.listen, "gateway.listen"
        if gateway.status.listen:
            yield gateway.status.listen, "gateway status.listen"
    if learner is not None:
        if learner.status.listen:
            host, _, port = learner.status.listen.rpartition(":")
            for rank in range(subject.world or 1):
                yield f"{host}:{int(port) + rank}", f"learner status.listen + {rank}"
        if subject.kind == "learner":
            yield f"0.0.0.0:{_RENDEZVOUS}", "rendezvous (torchrun's --rdzv-endpoint)"
    for worker in subject.workers:
        if worker.status.listen:
            yield worker.status.listen, f"{worker.name} status.listen"
        if not worker.engine.urls:
            for index in range(worker.engine.count):
                yield f"127.0.0.1:{worker.engine.base_port + index}", f"{worker.name} engine.base_port + {index}"
