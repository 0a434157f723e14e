"""Templates of prompts: a text with the names of columns in braces."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter


class PromptTemplate:
    """A text with places for columns: "{question}" or, nested, "{extra.hint}"; {{ and }} are braces.

    Args:
        text: the template.

    Raises:
        ValueError: a brace has no other one, a place has no name, or there is no place.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str | None]] = []
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise _malformed(text, str(error)) from error
        for literal, name, spec, conversion in parsed:
            if name is not None and (not name or name != name.strip()):
                raise _malformed(text, "a place without the name of a column")
            if spec or conversion:
                raise _malformed(text, f"{{{name}}} says how to format it, and columns are put in as they are")
            self._parts.append((literal, name))
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))
        if not self.columns:
            raise _malformed(text, "no column in it, so that all prompts are the same")

    def fill(self, value: Callable[[str], str]) -> str:
        """Returns the text with ``value(column)`` at each place."""
        return "".join(literal + ("" if name is None else value(name)) for literal, name in self._parts)


def _malformed(text: str, why: str) -> ValueError:
    return ValueError(f"template = {text!r}: {why}; write the name of a column in braces, and {{{{ and }}}} for braces")
