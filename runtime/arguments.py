"""The command line that every process shares: its settings file, and keys that are changed on top of it.

A container's file comes from a ConfigMap that all pods of a kind share; what differs between pods (a name, an address) comes
as ``--set name=$(POD_NAME)``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeVar

from runtime.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments FILE and ``--set section.key=value``, which may be repeated, to ``parser``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="settings of the process, .toml or .json")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="changes one setting of FILE, as TOML reads the value, or as plain text; repeatable",
    )


def load(kind: type[SettingsT], options: argparse.Namespace) -> SettingsT:
    """Loads the settings that the arguments of ``add_settings`` name, as a ``kind``. Raises SettingsError."""
    return kind.load(options.file, options.overrides)
