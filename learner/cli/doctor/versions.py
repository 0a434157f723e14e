"""Checks the installed releases of packages that must fit each other, without importing any of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn

# The pins of constraints.txt; of megatron-core, one for each Python.
TESTED = {"torch": ("2.13.0",), "megatron-core": ("0.16.1", "0.19.2"), "sglang": ("0.5.23",)}


def versions(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that what the processes need is installed, in the release that Leeway was tested with."""
    needed: list[str] = []
    if examined.learner is not None:
        needed += ["torch", "megatron-core"]
    if any(not worker.engine.urls for worker in examined.workers):
        needed += ["sglang"]
    for package in needed:
        yield _package(package)
    loggers = set(examined.learner.loggers) & {"wandb", "mlflow"} if examined.learner is not None else set()
    for package in sorted(loggers):
        if _installed(package) is None:
            yield fail(package, "named in learner.loggers, but not installed", f"pip install {package}")
    configs = [config for config in (examined.gateway, examined.learner, *examined.workers) if config is not None]
    if any(config.traces.endpoint for config in configs):
        found = _installed("opentelemetry-exporter-otlp-proto-http")
        if found is None:
            text = "traces.endpoint is set, but OpenTelemetry is not installed"
            yield fail("traces", text, 'pip install "leeway[traces]"')
        else:
            yield ok("traces", f"OpenTelemetry {found}")


def _package(name: str) -> Finding:
    found = _installed(name)
    if found is None:
        return fail(name, "not installed here", f"{_install(name)}, or use the image of this process")
    return compare_release(name, found)


def compare_release(name: str, found: str) -> Finding:
    """Compares a package's release with those that Leeway was tested with.

    Equal releases are "ok", another patch release of the same minor release is a "warn", all others are a "fail".
    """
    tested = [_release(release) for release in TESTED[name]]
    if _release(found) in tested:
        return ok(name, found)
    same_minor = _release(found)[:2] in [release[:2] for release in tested]
    text = f"{found}; Leeway was tested with {' and '.join(TESTED[name])}"
    return warn(name, text, _install(name)) if same_minor else fail(name, text, _install(name))


def _install(name: str) -> str:
    return f"pip install {name}=={' or '.join(TESTED[name])}"


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> list[str]:
    """``2.13.0a0+nv25`` -> ["2", "13", "0"]: NVIDIA's builds of a release carry letters."""
    numbers = []
    for field in version.partition("+")[0].split(".")[:3]:
        digits = field[: len(field) - len(field.lstrip("0123456789"))]
        numbers.append(digits or "0")
    return numbers
