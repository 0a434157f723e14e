"""`leeway config`: prints the keys of a run file, or the values that a run would use and where each comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.cli.run.run_directory import RunError
from learner.cli.run.run_file import RunFile
from learner.cli.settings.effective import DerivedValue, EffectiveValue, derived, effective
from learner.cli.settings.keys import default_text, tables
from runtime.settings import read_mapping

_WIDTH = 56  # of a line before its origin


def defaults_text() -> str:
    """Every key of a run file as a commented TOML file, with its default and its meaning."""
    lines: list[str] = []
    for table in tables(RunFile):
        if not table.name:
            continue
        heading = f"[[{table.name}]]" if table.repeated else f"[{table.name}]"
        lines += ["", f"# {' '.join(table.meaning.split())}", f"# {heading}" if table.optional else heading]
        for key in table.keys:
            value = f"# {key.name} = ({key.default})" if key.default in ("required", "unset") else ""
            said = ", ".join(part for part in (key.type, key.unit) if part)
            lines.append(f"{value or f'{key.name} = {key.default}'}  # {said}: {key.meaning}")
    return "\n".join(lines[1:])


def defaults_json() -> str:
    """Every key of a run file with type, default, unit and meaning, as a JSON array."""
    rows = [
        {"key": key.path, "type": key.type, "default": key.default, "unit": key.unit, "meaning": key.meaning}
        for table in tables(RunFile)
        for key in table.keys
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def config_text(source: Path | None, overrides: Sequence[str], defaults: bool, as_json: bool) -> str:
    """What `leeway config` prints.

    Args:
        source: a run file, or a run's directory; None only with ``defaults``.
        overrides: changes of single settings, as ``section.key=value``.
        defaults: print every key with its default instead.
        as_json: print JSON.

    Raises:
        RunError: there is neither a file nor ``defaults``, or both.
        SettingsError: the file is missing, or a setting in it is not allowed.
    """
    if defaults == (source is not None):
        raise RunError("leeway config: give a run file, or --defaults for every key with its default, and not both")
    if source is None:
        return defaults_json() if as_json else defaults_text()
    run_file = RunFile.read(source, overrides)
    written = read_mapping(source / "run.json" if source.is_dir() else source)
    values, added = effective(run_file, written, overrides), derived(run_file)
    return _json(values, added) if as_json else _text(values, added)


def _text(values: Sequence[EffectiveValue], added: Sequence[DerivedValue]) -> str:
    lines = [f"{_assignment(value.key, value.value):{_WIDTH}}  # {value.origin}" for value in values]
    lines += ["", "# What `leeway up` fills in, in the file of each process:"]
    lines += [f"# {value.process}: {_assignment(value.key, value.value).lstrip('# ')}" for value in added]
    return "\n".join(lines)


def _assignment(key: str, value: Any) -> str:
    return f"# {key} is unset" if value is None else f"{key} = {default_text(value)}"


def _json(values: Sequence[EffectiveValue], added: Sequence[DerivedValue]) -> str:
    processes: dict[str, list[dict[str, Any]]] = {}
    for value in added:
        processes.setdefault(value.process, []).append({"key": value.key, "value": value.value})
    rows = [{"key": value.key, "value": value.value, "from": value.origin} for value in values]
    return json.dumps({"values": rows, "derived": processes}, indent=2, ensure_ascii=False)
