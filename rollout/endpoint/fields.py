"""Reads the fields of a JSON object; a field that is not as expected is an error that names its path and its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollout.endpoint.api_error import bad


class Fields:
    """The fields of one JSON object; null counts as absent.

    Args:
        value: the parsed JSON.
        path: where it stands in the body, as messages[2].content; empty for the body itself.

    Raises:
        ApiError: it is no object.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise bad(path or "the body", value, "an object")
        self.values: dict[str, Any] = {key: item for key, item in value.items() if item is not None}
        self._path = path

    def path(self, name: str) -> str:
        """Where the field ``name`` stands in the body."""
        return f"{self._path}.{name}" if self._path else name

    def text(self, name: str) -> str:
        """Reads a text that has to be there."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise bad(self.path(name), value, "a text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Reads a text; None where it is absent."""
        return self.text(name) if name in self.values else None

    def choice(self, name: str, *choices: str) -> str:
        """Reads one of several texts."""
        value = self.values.get(name)
        if not isinstance(value, str) or value not in choices:
            raise bad(self.path(name), value, "one of " + ", ".join(choices))
        return value

    def flag(self, name: str) -> bool:
        """Reads true or false; false where it is absent."""
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise bad(self.path(name), value, "true or false")
        return value

    def count(self, name: str) -> int | None:
        """Reads a whole number from 1 to 2^31 - 1; None where it is absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise bad(self.path(name), value, "a whole number from 1 to 2147483647")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """Reads an object; an empty one where it is absent."""
        value = self.values.get(name, {})
        if not isinstance(value, dict):
            raise bad(self.path(name), value, "an object")
        return value

    def objects(self, name: str) -> Iterator[Fields]:
        """Reads a list of objects; none where it is absent."""
        value = self.values.get(name, [])
        if not isinstance(value, list):
            raise bad(self.path(name), value, "a list of objects")
        for index, item in enumerate(value):
            yield Fields(item, f"{self.path(name)}[{index}]")

    def texts(self, name: str) -> tuple[str, ...]:
        """Reads a text or a list of texts; none where it is absent."""
        value = self.values.get(name, [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
            raise bad(self.path(name), value, "a text or a list of texts, none of them empty")
        return tuple(found)
