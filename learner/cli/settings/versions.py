"""`leeway --version`: this release, and what it would run with."""

from __future__ import annotations

import importlib.metadata
import platform

from learner.gateway.run_description import CONTRACT_REVISION

_PACKAGES = ("torch", "megatron-core", "sglang", "transformers")


def version_text() -> str:
    """One line for each: Leeway with the revision of its contract, Python, and the packages that runs need beside it."""
    lines = [f"leeway {_installed('leeway')} (contract revision {CONTRACT_REVISION})"]
    lines.append(f"Python {platform.python_version()}")
    lines += [f"{package} {_installed(package)}" for package in _PACKAGES]
    return "\n".join(lines)


def _installed(package: str) -> str:
    """A package's version, from its metadata: importing torch would take seconds."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
