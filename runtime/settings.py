"""Frozen settings, read from TOML or JSON into validated pydantic models; errors name the key and what to do."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import MISCONFIGURED, LeewayError


class SettingsError(LeewayError):
    """A configuration that cannot be used. The message names the source, the key, the value and the remedy."""

    exit_status = MISCONFIGURED


class Settings(BaseModel):
    """Base class of every configuration section: immutable, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Reads a ``.toml`` or ``.json`` file, applies ``section.key=value`` overrides, and validates the result.

        Raises:
            SettingsError: the file is missing or malformed, a key is unknown, or a value does not fit.
        """
        path = Path(path)
        return cls.parse(_merge(read_mapping(path), overrides), source=str(path))

    @classmethod
    def parse(cls, values: dict[str, Any], source: str) -> Self:
        """Validates a mapping; ``source`` names it in error messages. Raises SettingsError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            items = [(_location(values, item["loc"]), item) for item in error.errors()]
            raise SettingsError("\n".join(_explain(cls, source, *item) for item in items)) from error

    def write(self, path: Path) -> None:
        """Writes the settings as JSON, readable again by ``load``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n")


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a TOML or JSON file, unvalidated. Raises SettingsError when it is missing or malformed."""
    if not path.is_file():
        raise SettingsError(f"{path}: no such configuration file")
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error


def _merge(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise SettingsError(f"--set {override!r}: expected section.key=value")
        *sections, leaf = key.strip().split(".")
        target: Any = values
        for section in sections:
            target, place = _place(target, section, override)
            if isinstance(target, dict):
                target.setdefault(place, {})
            target = target[place]
            if not isinstance(target, dict | list):
                raise SettingsError(f"--set {override!r}: {section!r} is a value, not a section")
        target, place = _place(target, leaf, override)
        target[place] = toml_value(text.strip())
    return values


def _place(target: Any, section: str, override: str) -> tuple[Any, Any]:
    """Returns the table or array in which a part of a key is, and its place there.

    A part is the number of a table of an array, as in ``rollout.task.1.name``; where the array has one table only, its number
    may be left out.
    """
    if isinstance(target, dict):
        return target, section
    if section.isdecimal() and int(section) < len(target):
        return target, int(section)
    if not section.isdecimal() and len(target) == 1 and isinstance(target[0], dict):
        return target[0], section
    if not target:
        raise SettingsError(f"--set {override!r}: {section!r} stands in an array without entries")
    raise SettingsError(
        f"--set {override!r}: {section!r} stands where one of {len(target)} entries is meant: give its number, 0 to "
        f"{len(target) - 1}"
    )


def toml_value(text: str) -> Any:
    """Parses ``12``, ``true``, ``[1, 2]`` as TOML does; anything else is a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _location(values: Any, places: Iterable[Any]) -> str:
    """The key of an error as the user wrote it: a table that stands alone, where an array of tables may, has no number."""
    parts = []
    for place in places:
        if isinstance(place, int) and isinstance(values, dict):
            continue
        parts.append(str(place))
        try:
            values = values[place]
        except (LookupError, TypeError):
            values = None
    return ".".join(parts)


def _explain(cls: type[BaseModel], source: str, key: str, item: Any) -> str:
    if item["type"] == "missing":
        return f"{source}: {key} is missing: it has no default"
    if item["type"] != "extra_forbidden":
        message = item["msg"].removeprefix("Value error, ")
        whole = isinstance(item["input"], dict) and item["type"] == "value_error"  # a rule over several keys
        value = "" if whole else f" = {item['input']!r}"
        return f"{source}: {key}{value}: {message}" if key else f"{source}: {message}"
    return f"{source}: unknown key {key!r} (value {item['input']!r}); {_hint(key, sorted(_known_keys(cls)))}"


def _hint(key: str, known: list[str]) -> str:
    """Suggests the nearest key of the section, else a key of another section with that name, else lists the section's."""
    section, _, leaf = key.rpartition(".")
    plain = ".".join(part for part in section.split(".") if not part.isdecimal())  # without the numbers of tables
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == plain]
    siblings = {name: f"{section}.{name}" if section else name for name in beside}
    near = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)]
    near += [name for name in known if name.rpartition(".")[2] == leaf]
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(siblings.values())}"


def _known_keys(cls: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in cls.model_fields.items():
        yield prefix + name
        for section in _sections(field.annotation):
            yield from _known_keys(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections(argument)
