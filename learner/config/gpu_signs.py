"""Signs that a learner is meant for a GPU. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from learner.config.learner import LearnerConfig

# What NVIDIA's container images and its device plugin set.
_VARIABLES = ("NVIDIA_PRODUCT_NAME", "CUDA_VERSION", "NVIDIA_VISIBLE_DEVICES")
_NO_DEVICES = ("", "none", "void")
_DRIVER = Path("/proc/driver/nvidia/version")


def signs_in_settings(config: LearnerConfig) -> list[str]:
    """Settings that only pay on a GPU, such as ``recompute = "full"``."""
    signs = []
    if config.dtype == "bfloat16":
        signs.append('dtype = "bfloat16"')
    if config.recompute != "none":
        signs.append(f'recompute = "{config.recompute}"')
    if config.overlap:
        signs.append("overlap = true")
    return signs


def signs_of_machine(environment: Mapping[str, str], driver: Path = _DRIVER) -> list[str]:
    """What says that this machine, or the image that runs on it, has GPUs.

    Args:
        environment: the process's environment variables.
        driver: the file that NVIDIA's driver shows.
    """
    signs = [name for name in _VARIABLES if environment.get(name, "none") not in _NO_DEVICES]
    return signs + ([str(driver)] if driver.exists() else [])
