"""Faults to plant in rendered objects: one change each, at a path of one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.deploy.manifests import Object

GONE: Any = object()  # as a value: what is at the path is removed


@dataclass(frozen=True)
class Fault:
    """A change of rendered objects, and the finding that it must cause.

    Attributes:
        policy: the policy that must notice.
        overlay: where it is planted.
        target: Kind/name; a name with a generated hash may be shortened.
        path: keys and indices separated by dots; the last may be ``+``, which appends to the list before it.
        value: what is put there; GONE removes it. A pair (old, new) of strings replaces a part of the text.
        said: a substring of the finding.
    """

    policy: str
    overlay: str
    target: str
    path: str
    value: Any
    said: str

    def plant(self, objects: list[Object]) -> list[Object]:
        """Changes the objects and returns them. Raises LookupError when they have no such path."""
        kind, _, name = self.target.partition("/")
        found = [item for item in objects if item["kind"] == kind and _is(item["metadata"]["name"], name)]
        if len(found) != 1:
            raise LookupError(f"{self.target}: {len(found)} objects")
        if not self.path:
            objects.remove(found[0])
            return objects
        *steps, last = [key.replace("~", ".") for key in self.path.split(".")]
        place: Any = found[0]
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place[step]
        self._change(place, int(last) if isinstance(place, list) and last != "+" else last)
        return objects

    def _change(self, place: Any, last: Any) -> None:
        if last == "+":
            place.append(self.value)
        elif self.value is GONE:
            del place[last]
        elif isinstance(self.value, tuple):
            old, new = self.value
            if old not in place[last]:
                raise LookupError(f"{self.target} {self.path}: no {old!r}")
            place[last] = place[last].replace(old, new)
        else:
            place[last] = self.value


def _is(full: str, name: str) -> bool:
    """Whether ``name`` is the given one, or that one with kustomize's hash of ten letters."""
    return full == name or (full.startswith(f"{name}-") and len(full) == len(name) + 11)
