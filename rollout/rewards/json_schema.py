"""The reward json_schema: the response is JSON of a certain form."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from rollout.rewards.reward_function import RewardFunction, RewardInput

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


class JsonSchema(RewardFunction):
    """1 where the response is JSON that the schema accepts, else 0. It may stand in a fenced block, which is the only one.

    References to schemas elsewhere are not followed.

    Args:
        schema: the schema, a table.
        file: a JSON file with the schema, instead.
    """

    def __init__(self, schema: dict | None = None, file: str = "") -> None:
        if (schema is None) == (not file):
            raise ValueError("expected one of schema and file")
        if importlib.util.find_spec("jsonschema") is None:
            raise LookupError("the package jsonschema is not there: install it for the interpreter that judges")
        from jsonschema import SchemaError, validators  # only where a response is judged
        from referencing import Registry

        found: Any = schema if schema is not None else json.loads(Path(file).read_text(encoding="utf-8"))
        cls = validators.validator_for(found, default=validators.Draft202012Validator)
        try:
            cls.check_schema(found)
        except SchemaError as error:
            raise ValueError(f"{'file' if file else 'schema'}: no JSON schema: {error.message}") from error
        self._validator = cls(found, registry=Registry())

    def value(self, asked: RewardInput) -> float:
        text = asked.finished
        if text is None:
            return 0.0
        blocks = _FENCED.findall(text)
        if len(blocks) > 1:
            return 0.0
        try:
            found = json.loads(blocks[0] if blocks else text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return 0.0
        return float(self._validator.is_valid(found))


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
