"""Runs all checks, in an order in which their findings are easy to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from learner.cli.doctor.certificates import certificates
from learner.cli.doctor.credentials import credentials
from learner.cli.doctor.machine import machine
from learner.cli.doctor.memory import memory
from learner.cli.doctor.model import model
from learner.cli.doctor.peers import peers
from learner.cli.doctor.ports import ports
from learner.cli.doctor.redis import redis
from learner.cli.doctor.settings_lint import settings_lint
from learner.cli.doctor.sharing import sharing
from learner.cli.doctor.storage import storage
from learner.cli.doctor.versions import versions
from learner.cli.preflight.checks import preflight
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok
from runtime.settings import SettingsError

CHECKS: Sequence[Callable[[ExaminedConfig], Iterator[Finding]]] = (
    settings_lint, ports, credentials, certificates, redis, peers, model, preflight, storage, sharing, machine, memory,
    versions,
)  # fmt: skip


def examine(config: Path, overrides: Iterable[str] = (), weights: str | None = None) -> Iterator[Finding]:
    """Runs every check on CONFIG and yields each finding as soon as it is made.

    If no process would accept the file, the findings say only why.

    Args:
        config: a run file, a run's directory, or the settings file of a gateway, learner or worker.
        overrides: changes of single settings, as ``section.key=value``.
        weights: for a worker's file: the URI of the learner's publish.dir (or publish.url) as this machine sees it.
    """
    try:
        examined = ExaminedConfig.read(config, overrides, weights)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield fail("configuration", line, "correct it in the file, or with --set")
        return
    kind = "run file" if examined.kind == "run" else f"settings of a {examined.kind} process"
    yield ok("configuration", f"{config}: {kind}")
    for check in CHECKS:
        yield from check(examined)
