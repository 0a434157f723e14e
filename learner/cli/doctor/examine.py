"""All checks, in the order in which their findings make sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from learner.cli.doctor.certificates import certificates
from learner.cli.doctor.credentials import credentials
from learner.cli.doctor.finding import Finding, fail, ok
from learner.cli.doctor.machine import machine
from learner.cli.doctor.model import model
from learner.cli.doctor.peers import peers
from learner.cli.doctor.pitfalls import pitfalls
from learner.cli.doctor.ports import ports
from learner.cli.doctor.redis import redis
from learner.cli.doctor.sharing import sharing
from learner.cli.doctor.storage import storage
from learner.cli.doctor.subject import Subject
from learner.cli.doctor.versions import versions
from runtime.settings import SettingsError

CHECKS: Sequence[Callable[[Subject], Iterator[Finding]]] = (
    pitfalls, ports, credentials, certificates, redis, peers, model, storage, sharing, machine, versions,
)  # fmt: skip


def examine(config: Path, overrides: Iterable[str] = (), weights: str | None = None) -> Iterator[Finding]:
    """Every finding about CONFIG, as it is made. A file that no process would take is the only one then.

    Args:
        config: a run file, a run's directory, or the file of a gateway, learner or worker.
        overrides: ``section.key=value``.
        weights: a worker's file: the URI of the learner's publish.dir (or publish.url) as this machine sees it.
    """
    try:
        subject = Subject.read(config, overrides, weights)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield fail("configuration", line, "mend the file, or give it with --set")
        return
    yield ok(
        "configuration", f"{config}: a {subject.kind}{' file' if subject.kind == 'run' else ' process'}'s settings"
    )
    for check in CHECKS:
        yield from check(subject)
