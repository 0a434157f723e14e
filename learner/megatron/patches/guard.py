"""Refuses to patch a library that is not the one the patch was written for.

A patch replaces or reaches into private parts of megatron-core or torch, which may change in any release. A patch that no
longer fits would fail in the middle of a run, or train silently wrong.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

from runtime.errors import MISCONFIGURED, LeewayError

# Releases that the patches have run with. megatron-core 0.16.1 is the newest for Python 3.11, and 0.19.2 is what Python 3.12
# gets (pyproject.toml). torch 2.11.0 is what ran on the GPUs in BENCHMARKS.md.
RELEASES = {"megatron-core": ("0.16.1", "0.19.2"), "torch": ("2.13.0", "2.11.0")}
_PACKAGES = {"megatron": "megatron-core", "torch": "torch"}  # top-level module -> distribution


class PatchError(LeewayError):
    """A library that a patch does not fit; the message names the package, both versions or signatures, and the remedy."""

    exit_status = MISCONFIGURED


def require_release(package: str) -> str:
    """Refuses a release of ``package`` that is not in RELEASES.

    Builds of the same release pass: "2.13.0+cpu" and NVIDIA's "2.13.0a0+git" are 2.13.0.

    Returns:
        The installed release, as in RELEASES, for a patch that not every release needs.

    Raises:
        PatchError: ``package`` is not installed, or is another release.
    """
    found, expected = _version(package), RELEASES[package]
    release = _release(found)
    if release not in expected:
        raise PatchError(
            f"{package} {found} is installed, but learner/megatron/patches was written for {package} "
            f"{' and '.join(expected)}: install the one that constraints.txt names for this Python, or port the patches to "
            f"{found} and add it to RELEASES in learner/megatron/patches/guard.py"
        )
    return release


def require_signature(function: Callable[..., Any], expected: str) -> None:
    """Refuses a function whose parameters are not ``expected``, such as "(self, state_dict, strict=True)".

    Annotations are not compared.

    Raises:
        PatchError: the names, order, kinds or defaults of the parameters are different.
    """
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    found = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    if found != expected:
        package = _PACKAGES.get(function.__module__.partition(".")[0])
        origin = f"{package} {_version(package)}" if package else "of neither megatron-core nor torch"
        raise PatchError(
            f"{function.__module__}.{function.__qualname__}{found} ({origin}) is not what learner/megatron/patches was "
            f"written for, which is {expected}: install the versions in constraints.txt, or port the patch to this one"
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise PatchError(f"{package} is not installed: install the version that constraints.txt names") from error


def _release(version: str) -> str:
    """The digits that a version starts with: "2.13.0a0+git" -> "2.13.0"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return match.group() if match else version
