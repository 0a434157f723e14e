"""What a task's prompts are made of, as values that can be stored and compared after a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollout.config import TaskConfig
from rollout.tasks import TaskError
from runtime.digest import of_file

Fingerprint = dict[str, Any]

_SHOWN = 60  # characters of a value in a message
_DIGITS = 12  # of a digest


def fingerprint(config: TaskConfig, seed: int, size: int | None, own: Mapping[str, Any]) -> Fingerprint:
    """Returns what must stay as it is for an index to stand for the same prompt: settings and contents of files, by name.

    An option that names a file counts with the file's content and not with its place, so that a data set can be moved. What
    the task says of an option of this name stands instead of the option.

    Args:
        config: the task's settings.
        seed: the worker's.
        size: number of prompts of a pass over the data; None: endless.
        own: what the task says of itself (``Task.fingerprint``).

    Raises:
        TaskError: a file that an option names cannot be read.
    """
    found = {"task.name": config.name, "seed": seed, "prompts in a pass": size}
    if config.prompts:
        found["task.prompts"] = _value("task.prompts", config.prompts)
    found |= {
        f"task.options.{option}": _value(f"task.options.{option}", value)
        for option, value in config.options.items()
        if option not in own
    }
    for name, value in own.items():
        found[f"the content of task.options.{name}" if name in config.options else f"the task's {name}"] = value
    return json.loads(json.dumps(found, default=repr))


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Returns a phrase for each value that is not what it was; empty where all are."""
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name} is {_shown(now, name)}, was {_shown(before, name)}"
        for name in names
        if (name in now) != (name in before) or _compared(now[name]) != _compared(before[name])
    ]


def _value(setting: str, value: Any) -> Any:
    if not (isinstance(value, str) and os.path.isfile(value)):  # os.path: Path.is_file raises where a text is too long
        return value
    try:
        return {"file": value, "content": of_file(Path(value))[1]}
    except OSError as error:
        raise TaskError(f"{setting} = {value!r}: cannot be read: {error.strerror}") from error


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"file", "content"}


def _compared(value: Any) -> Any:
    return value["content"] if _is_file(value) else value


def _shown(values: Fingerprint, name: str) -> str:
    if name not in values:
        return "not set"
    value = values[name]
    if _is_file(value):
        algorithm, _, digits = value["content"].partition(":")
        return f"{value['file']!r} with content {algorithm}:{digits[:_DIGITS]}..."
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
