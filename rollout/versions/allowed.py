"""Where a worker may read versions from: below the places that its own settings list, whatever a gateway names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rollout.versions.manifest import VersionError
from runtime.version_format.places import Place, place_of


class AllowedPlaces:
    """The places of ``WorkerConfig.allowed_uris``. Symbolic links in a file's path are followed before it is compared.

    Args:
        uris: URIs of directories; the versions below them may be read.

    Raises:
        ValueError: a URI is not one, or hides where it leads.
    """

    def __init__(self, uris: Sequence[str]) -> None:
        self._uris = list(uris)
        self._places = [place_of(uri) for uri in uris]

    def require(self, uri: str) -> Place:
        """Returns the place that an announced URI names. Raises VersionError when it is not allowed."""
        try:
            place = place_of(uri)
        except ValueError as error:
            raise VersionError("policy.uri", f"{uri!r}: {error}") from error
        if place.scheme == "file":
            self.require_path(Path(place.path), uri)
        elif not any(allowed.contains(place) for allowed in self._places):
            raise self._refusal(uri, "")
        return place

    def require_path(self, path: Path, uri: str | None = None) -> None:
        """Raises VersionError unless ``path``, with its symbolic links followed, is below an allowed directory."""
        resolved = path.resolve()
        roots = [Path(place.path).resolve() for place in self._places if place.scheme == "file"]
        if not any(resolved.is_relative_to(root) for root in roots):
            led = f" leads to {resolved}, which" if resolved != path else ""
            raise self._refusal(uri or path.as_uri(), led)

    def _refusal(self, uri: str, led: str) -> VersionError:
        return VersionError(
            "policy.uri",
            f"{uri!r}{led} is below none of allowed_uris = {self._uris} of this worker: list its place there if its "
            "versions are to be trusted",
        )
