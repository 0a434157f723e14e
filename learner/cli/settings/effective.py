"""The values with which a run would start: each key of the run file with its value, and where that comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from learner.cli.run.run_file import RunFile
from learner.cli.run.sections import EMBEDDED
from learner.config.presets import PRESETS

Origin = Literal["default", "preset", "file", "--set"]

# Stand for what is known when the run starts, and what is shown in their places.
_URL, _RUN, _VOCABULARY = "redis://embedded", "chosen-at-the-start", 1 << 30
_SHOWN = {
    _URL: "(of the server that `leeway up` starts)",
    _RUN: "(chosen at the start)",
    _VOCABULARY: "(of the model's tokenizer)",
}
_SECRET = re.compile(r"(?i)secret|token|password|credential|(^|[._-])key$")
_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@\s]*(?=@)")
_HIDDEN = "***"


@dataclass(frozen=True)
class EffectiveValue:
    """The value of one key.

    Attributes:
        key: the key, as --set takes it.
        value: its value, with secrets replaced by ***.
        origin: where it was set; "preset": by the table that learner.objective.preset names.
    """

    key: str
    value: Any
    origin: Origin


@dataclass(frozen=True)
class DerivedValue:
    """A setting of one process that is not in the run file as it stands: `leeway up` fills it in.

    Attributes:
        process: the process, such as "gateway" or "worker-0".
        key: the key in the process's own file.
        value: its value, with secrets replaced by ***.
    """

    process: str
    key: str
    value: Any


def effective(run_file: RunFile, written: Mapping[str, Any], overrides: Sequence[str]) -> list[EffectiveValue]:
    """The value of every key of a run file.

    Args:
        run_file: the settings, with the overrides.
        written: what stands in the file.
        overrides: what --set changed, as ``section.key=value``.
    """
    changed = [_without_zeros(override.partition("=")[0].strip()) for override in overrides]
    preset = PRESETS.get(run_file.learner.objective.preset or "")
    filled = {f"learner.{key}" for key in preset.flat()} if preset is not None else set[str]()
    found = []
    for key, value, in_file in _leaves(run_file, "", written):
        origin: Origin = "file" if in_file else "preset" if key in filled else "default"
        if any(_concerns(one, _without_zeros(key)) for one in changed):
            origin = "--set"
        found.append(EffectiveValue(key, hidden(key, value), origin))
    return found


def derived(run_file: RunFile) -> list[DerivedValue]:
    """What `leeway up` adds to each process's own settings, or changes in them.

    Raises:
        SettingsError: a process would refuse its settings.
    """
    url = _URL if run_file.queue.url == EMBEDDED else run_file.queue.url
    plan = run_file.resolve(url, _RUN, _VOCABULARY)
    processes: list[tuple[str, BaseModel, BaseModel]] = [
        ("gateway", plan.gateway, run_file.gateway),
        ("learner", plan.learner, run_file.learner),
        *((worker.name, worker, run_file.rollout) for worker in plan.workers),
    ]
    shared = [*_leaves(run_file.queue, "queue."), *_leaves(run_file.traces, "traces.")]
    found = []
    for process, settings, section in processes:
        given = {key: value for key, value, _ in [*shared, *_leaves(section, "")]}
        for key, value, _ in _leaves(settings, ""):
            if key not in given or given[key] != value:
                shown = _SHOWN.get(value, value) if isinstance(value, str | int) else value
                found.append(DerivedValue(process, key, hidden(key, shown)))
    return found


def hidden(key: str, value: Any) -> Any:
    """A value without the passwords of addresses and the values of keys that are called like secrets."""
    if isinstance(value, dict):
        return {name: hidden(name, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(key, item) for item in value]
    if not isinstance(value, str):
        return value
    if _SECRET.search(key) and not key.endswith(("_file", "certificate", "tls.key")):
        return _HIDDEN
    return _PASSWORD.sub(rf"\1:{_HIDDEN}", value)


def _leaves(settings: BaseModel, prefix: str, written: Any = None) -> Iterator[tuple[str, Any, bool]]:
    """Yields key, value and whether it stands in ``written``, for every value in a settings object."""
    for name in type(settings).model_fields:
        value, key = getattr(settings, name), prefix + name
        there = isinstance(written, Mapping) and name in written
        inside = written[name] if isinstance(written, Mapping) and there else None
        tables = _tables_in(value, key)
        if tables is None:
            yield key, _plain(value), there
        else:
            for place, path, table in tables:
                yield from _leaves(table, f"{path}.", _at(inside, place))


def _at(written: Any, place: str | int | None) -> Any:
    """What stands in a file for one table of several; a table that stands alone need not be in an array."""
    if isinstance(written, list):
        number = place if isinstance(place, int) else 0
        return written[number] if number < len(written) else None
    if isinstance(place, str):
        return written.get(place) if isinstance(written, Mapping) else None
    return written


def _tables_in(value: Any, key: str) -> list[tuple[str | int | None, str, BaseModel]] | None:
    """The tables that a field holds, each with its place in the field and its key; None where it holds a value."""
    if isinstance(value, BaseModel):
        return [(None, key, value)]
    if isinstance(value, tuple | list) and value and all(isinstance(item, BaseModel) for item in value):
        if len(value) == 1:
            return [(0, key, value[0])]
        return [(number, f"{key}.{number}", item) for number, item in enumerate(value)]
    if isinstance(value, dict) and value and all(isinstance(item, BaseModel) for item in value.values()):
        return [(name, f"{key}.{name}", item) for name, item in value.items()]
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _without_zeros(key: str) -> str:
    """A key without the numbers 0 of tables that stand alone, which both ways of writing it may leave out."""
    return ".".join(part for part in key.split(".") if part != "0")


def _concerns(changed: str, key: str) -> bool:
    return changed == key or changed.startswith(f"{key}.") or key.startswith(f"{changed}.")
