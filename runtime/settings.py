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
            raise SettingsError("\n".join(_explain(cls, source, item) for item in error.errors())) from error

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
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise SettingsError(f"--set {override!r}: {section!r} is a value, not a section")
        target[leaf] = _toml_value(text.strip())
    return values


def _toml_value(text: str) -> Any:
    """Parses ``12``, ``true``, ``[1, 2]`` as TOML does; anything else is a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(cls: type[BaseModel], source: str, item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
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
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
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
