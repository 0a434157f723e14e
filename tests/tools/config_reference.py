"""`python -m tests.tools.config_reference --write`: docs/configuration.md, made from the models of the run file.

Without --write, exits 1 when the committed file differs.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from learner.cli.run.run_file import RunFile
from learner.cli.settings.keys import SettingsKey, SettingsTable, tables
from learner.config import GatewayConfig, LearnerConfig
from rollout.config import WorkerConfig
from rollout.config.evaluation import EvaluatorConfig
from runtime.settings import Settings

FILE = Path(__file__).parents[2] / "docs" / "configuration.md"
_HEAD = """# Configuration

Every key of a run file (TOML), made from the code by `python -m tests.tools.config_reference --write`. A key that is not
here is refused, with the nearest one that is. `leeway config FILE [--set section.key=value]` prints what a run would use and
where each value comes from, `leeway config --defaults` this page as text, `leeway config --presets` tables of settings under
one name (docs/objectives.md); configs/demo.toml is a commented run file.

`required`: there is no default. `unset`: the key is left out; its meaning says what happens then. `[[name]]`: the table may
stand several times. An optional table that is left out turns off what it is for.
"""

_PROCESSES = """## Files of single processes

Where processes are started one by one, as on Kubernetes, each has a file of its own. It has the keys of its section above,
without the section's name, and those that `leeway up` would have filled in:
"""
PROCESSES: tuple[tuple[str, type[Settings], str], ...] = (
    ("python -m learner.gateway", GatewayConfig, "gateway"),
    ("torchrun -m learner", LearnerConfig, "learner"),
    ("python -m rollout", WorkerConfig, "rollout"),
    ("python -m rollout evaluate", EvaluatorConfig, "eval"),
)


def text() -> str:
    """The whole reference."""
    parts, told = [_HEAD], dict[type, str]()
    for table in tables(RunFile):
        if not table.name:
            continue
        heading = f"[[{table.name}]]" if table.repeated else f"[{table.name}]"
        before = told.setdefault(table.model, table.name)
        if before == table.name or not table.keys:
            parts.append(f"## {heading}\n\n{_meaning(table)}\n{_rows(table)}")
        else:
            parts.append(f"## {heading}\n\n{_meaning(table)} Its keys are those of `{before}`.\n")
    parts.append(_PROCESSES)
    for command, model, section in PROCESSES:
        parts.append(
            f"### `{command} FILE`\n\n{_heading_row()}" + "\n".join(map(_row, own_keys(model, section))) + "\n"
        )
    return "\n".join(parts)


def own_keys(model: type[Settings], section: str) -> list[SettingsKey]:
    """The keys of a process's own file that the run file has neither in its section nor in a table of the same name."""
    known = {key.path for table in tables(RunFile) for key in table.keys}
    keys = [key for table in tables(model) for key in table.keys]
    found = [key for key in keys if f"{section}.{key.path}" not in known and key.path not in known]
    return [replace(key, name=key.path) for key in found]


def _meaning(table: SettingsTable) -> str:
    said = table.meaning.strip().replace("``", "`")
    said = said[:1].upper() + said[1:]
    said += "" if said.endswith(".") else "."
    return f"Optional. {said}" if table.optional else said


def _rows(table: SettingsTable) -> str:
    if not table.keys:
        return ""
    return "\n" + _heading_row() + "\n".join(_row(key) for key in table.keys) + "\n"


def _heading_row() -> str:
    return "| key | type | default | unit | meaning |\n|---|---|---|---|---|\n"


def _row(key: SettingsKey) -> str:
    default = key.default if key.default in ("required", "unset") else f"`{key.default}`"
    cells = (f"`{key.name}`", key.type, default, key.unit, key.meaning.replace("``", "`").replace("<", "\\<"))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text())
    elif not FILE.is_file() or FILE.read_text() != text():
        sys.exit(f"{FILE} is not what the code says: run `python -m tests.tools.config_reference --write` and commit")
