"""Packages that must fit each other. Nothing heavy is imported: the installed distributions say what they are."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.subject import Subject

TESTED = {"torch": "2.13.0", "megatron-core": "0.16.1", "sglang": "0.5.23"}  # as constraints.txt


def versions(subject: Subject) -> Iterator[Finding]:
    """What this process needs is installed, in the release it was tested with."""
    needed: list[str] = []
    if subject.learner is not None:
        needed += ["torch", "megatron-core"]
    if any(not worker.engine.urls for worker in subject.workers):
        needed += ["sglang"]
    for package in needed:
        yield _package(package)
    loggers = set(subject.learner.loggers) & {"wandb", "mlflow"} if subject.learner is not None else set()
    for package in sorted(loggers):
        if _installed(package) is None:
            yield fail(package, "learner.telemetry.loggers names it, and it is not installed", f"pip install {package}")
    configs = [config for config in (subject.gateway, subject.learner, *subject.workers) if config is not None]
    if any(config.traces.endpoint for config in configs):
        found = _installed("opentelemetry-exporter-otlp-proto-http")
        if found is None:
            yield fail(
                "traces", "traces.endpoint is set, and OpenTelemetry is not installed", 'pip install "leeway[traces]"'
            )
        else:
            yield ok("traces", f"OpenTelemetry {found}")


def _package(name: str) -> Finding:
    found = _installed(name)
    if found is None:
        return fail(name, "not installed here", f"pip install {name}=={TESTED[name]}, or use the image of this process")
    return judged(name, found)


def judged(name: str, found: str) -> Finding:
    """A release against the one that Leeway was tested with."""
    tested = TESTED[name]
    if _release(found) == _release(tested):
        return ok(name, found)
    same_minor = _release(found)[:2] == _release(tested)[:2]
    text, fix = f"{found}; Leeway was tested with {tested}", f"pip install {name}=={tested}"
    return warn(name, text, fix) if same_minor else fail(name, text, fix)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> list[str]:
    """``2.13.0a0+nv25`` -> ["2", "13", "0"]: NVIDIA's builds of a release carry letters."""
    numbers = []
    for part in version.partition("+")[0].split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(digits or "0")
    return numbers
