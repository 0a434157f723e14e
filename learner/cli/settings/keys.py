"""The keys of a settings model, each with its type, default, unit and meaning, for the reference and `leeway config`."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path", dict: "table", list: "list"}
_UNITS = {  # by the end of a key's name; the longest first
    "_bytes_per_fleet": "bytes",
    "bytes_per_s": "bytes/s",
    "_per_s": "1/s",
    "_bytes": "bytes",
    "_steps": "steps",
    "_tokens": "tokens",
    "_ms": "milliseconds",
    "_mb": "MiB",
    "_s": "seconds",
    "max_staleness": "steps",
    "expire_after": "steps",
    "hold_staleness": "steps",
    "seconds": "seconds",
    "steps": "steps",
    "tokens": "tokens",
}
_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


@dataclass(frozen=True)
class SettingsKey:
    """One key that may stand in a settings file.

    Attributes:
        section: the table in which it stands, such as "learner.optimizer"; "" at the top. NAME stands for a name of the
            user's.
        name: its name there.
        type: what it may be, in words.
        default: its default as TOML writes it; "required" or "unset" where there is none.
        unit: unit of its value; "" for a value without one.
        meaning: what it is for.
    """

    section: str
    name: str
    type: str
    default: str
    unit: str
    meaning: str

    @property
    def path(self) -> str:
        """The whole key, as --set takes it."""
        return f"{self.section}.{self.name}" if self.section else self.name


@dataclass(frozen=True)
class SettingsTable:
    """One table of a settings file.

    Attributes:
        name: its name, such as "learner.optimizer".
        repeated: whether it stands as an array of tables, ``[[name]]``.
        optional: whether what it is for is off where it is left out.
        meaning: what it is for.
        model: the model that describes it.
        keys: its keys, in the order of the model.
    """

    name: str
    repeated: bool
    optional: bool
    meaning: str
    model: type[BaseModel]
    keys: tuple[SettingsKey, ...]


def tables(model: type[BaseModel]) -> list[SettingsTable]:
    """Every table that a file of this model may have, each before those within it."""
    return list(_tables(model, "", repeated=False, optional=False, meaning=""))


def _tables(
    model: type[BaseModel], name: str, *, repeated: bool, optional: bool, meaning: str
) -> Iterator[SettingsTable]:
    nested: list[tuple[str, FieldInfo, type[BaseModel]]] = []
    keys = []
    for field_name, field in model.model_fields.items():
        inner = inner_model(field.annotation)
        if inner is None:
            keys.append(_key(name, field_name, field))
        else:
            nested.append((field_name, field, inner))
    said = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    yield SettingsTable(name, repeated, optional, meaning or said, model, tuple(keys))
    for field_name, field, inner in nested:
        path = f"{name}.{field_name}" if name else field_name
        origins = {typing.get_origin(part) for part in _parts(field.annotation)}
        yield from _tables(
            inner,
            f"{path}.NAME" if dict in origins else path,
            repeated=bool(origins & {tuple, list}),
            optional=type(None) in _parts(field.annotation),
            meaning=field.description or "",
        )


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model of the table, or of the tables, that a field holds; None for a field that holds a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := inner_model(part)) is not None), None)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; of anything else itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _key(section: str, name: str, field: FieldInfo) -> SettingsKey:
    bounds = [
        f"{sign} {default_text(bound)}"
        for attribute, sign in _BOUNDS
        for data in field.metadata
        if (bound := getattr(data, attribute, None)) is not None
    ]
    kind = " ".join([_type_text(field.annotation), ", ".join(bounds)]).strip()
    default = "required" if field.is_required() else default_text(field.get_default(call_default_factory=True))
    return SettingsKey(section, name, kind, default, _unit(name, kind), field.description or "")


def _type_text(annotation: Any) -> str:
    parts = [part for part in _parts(annotation) if part is not type(None)]
    if len(parts) > 1:
        return " or ".join(_type_text(part) for part in parts)
    (only,) = parts
    origin, arguments = typing.get_origin(only), typing.get_args(only)
    if origin is Literal:
        return " or ".join(json.dumps(value) for value in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(_type_text(argument) for argument in arguments)}]"
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        values = "" if arguments[1] is Any else f" of {_type_text(arguments[1])}"
        return f"table{values}"
    return _NAMES.get(only, "text")


def default_text(value: Any) -> str:
    """A value as a TOML file has it; "unset" for None, which TOML cannot say."""
    if value is None:
        return "unset"
    if isinstance(value, tuple | list | set | frozenset):
        return f"[{', '.join(default_text(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {default_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:g}" if value == float(f"{value:g}") else repr(value)
    if isinstance(value, bool | int):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)


def _unit(name: str, kind: str) -> str:
    if not kind.startswith(("integer", "number")):
        return ""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
