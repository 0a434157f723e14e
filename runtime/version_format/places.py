"""The parts of a version's URI that a decision of trust may rest on. What may hide where it leads is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_HIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True)
class Place:
    """A directory on this machine or in an object store.

    Attributes:
        scheme: "file" for this machine.
        host: bucket or host; "" for this machine.
        segments: names on the path from the root, none of them empty, "." or "..".
    """

    scheme: str
    host: str
    segments: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path from the root, with a slash at its beginning."""
        return "/" + "/".join(self.segments)

    def contains(self, other: Place) -> bool:
        """Whether ``other`` is this place or below it, by name; symbolic links are not followed."""
        own = len(self.segments)
        return (self.scheme, self.host, self.segments) == (other.scheme, other.host, other.segments[:own])


def place_of(uri: str) -> Place:
    """Takes a URI apart.

    Raises:
        ValueError: it is no ``file:///path`` or ``scheme://host/path``, or has what may hide where it leads: ``..``, a
            user name, a query, an encoded path in an object store, a chain of file systems. The message is the reason.
    """
    for wrong, found in (
        ("control characters or backslashes", _HIDDEN.search(uri)),
        ("no scheme: file:///path or s3://bucket/path are expected", not _SCHEME.match(uri)),
        ("a chain of file systems (::)", "::" in uri),
        ("a query or a fragment", "?" in uri or "#" in uri),
    ):
        if found:
            raise ValueError(wrong)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ValueError(f"no URI ({error})") from error
    host, path = parts.netloc, parts.path
    if "@" in host:
        raise ValueError("a user name before the host")
    if parts.scheme == "file":
        if host not in ("", "localhost"):
            raise ValueError(f"files of another machine ({host})")
        host, path = "", unquote(path)
        if _HIDDEN.search(path):
            raise ValueError("control characters or backslashes")
    elif not host:
        raise ValueError("no bucket or host")
    elif "%" in uri:
        raise ValueError("an encoded path")
    segments = tuple(path.removeprefix("/").removesuffix("/").split("/")) if path.strip("/") else ()
    if not path.startswith("/") and path:
        raise ValueError("a path that does not begin at the root")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError("a path with .., . or //")
    return Place(parts.scheme, host, segments)
