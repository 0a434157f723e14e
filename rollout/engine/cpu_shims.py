"""Finds the CPU stand-ins for SGLang's GPU packages (rollout/cpu_engine), and refuses another SGLang than theirs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from runtime.settings import SettingsError

SGLANG = "0.5.23"  # the release that the stand-ins were written for, as in constraints.txt

_DIRECTORY = Path(__file__).parents[1] / "cpu_engine"


def cpu_shims() -> Path:
    """Returns the directory to put on the PYTHONPATH of a server on a CPU.

    Raises:
        SettingsError: SGLang is not installed, or in another release than the stand-ins were written for.
    """
    try:
        found = metadata.version("sglang")
    except metadata.PackageNotFoundError:
        raise SettingsError(
            'engine.device = "cpu": SGLang is not installed here; see requirements/engine-cpu.txt, or set engine.urls'
        ) from None
    if found.partition("+")[0] != SGLANG:
        raise SettingsError(
            f'engine.device = "cpu": SGLang {found} is installed, and its CPU stand-ins are for {SGLANG}: '
            f"pip install --no-deps sglang=={SGLANG}, or adapt rollout/cpu_engine"
        )
    return _DIRECTORY
