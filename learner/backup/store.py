"""Where backups are: a directory of this machine, or a prefix in an object store, or wherever else fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from learner.backup.errors import BackupError
from learner.storage.fence import sync_directory
from runtime.transfer import transfer
from runtime.version_format.places import place_of

_CALL_S = 300.0  # limit of an attempt at a call that moves few bytes


class BackupStore:
    """Files under one URI. Methods raise OSError; those that move few bytes have a time limit, and are tried again.

    Args:
        uri: file:///path, s3://bucket/path, ..., or a path of this machine.

    Attributes:
        uri: the URI, without a slash at its end.

    Raises:
        BackupError: it is no such URI, or the client for it is not installed or refuses it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = (uri if "://" in uri else Path(uri).absolute().as_uri()).rstrip("/")
        try:
            place = place_of(self.uri)
        except ValueError as error:
            raise BackupError(f"{uri}: {error}; expected file:///path, s3://bucket/path or a path") from error
        if place.scheme == "file":
            self._files, self._root = _LocalFiles(), place.path
        else:
            self._files, self._root = _client(self.uri)

    def below(self, name: str) -> BackupStore:
        """The store of what is below ``name``."""
        return BackupStore(f"{self.uri}/{name}")

    def names(self) -> list[str]:
        """Names of what is directly under the URI, sorted; empty if there is nothing."""

        def listed() -> list[str]:
            with contextlib.suppress(FileNotFoundError):
                return sorted({Path(path).name for path in self._files.ls(self._root, detail=False)})
            return []

        return transfer(self.uri, listed, _CALL_S)

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return transfer(f"{self.uri}/{name}", lambda: bool(self._files.exists(self._path(name))), _CALL_S)

    def put(self, name: str, content: bytes) -> None:
        """Writes a whole file; a reader sees all of it or nothing."""
        transfer(f"{self.uri}/{name}", lambda: self._files.pipe_file(self._path(name), content), _CALL_S)

    def get(self, name: str) -> bytes:
        """Reads a whole file that is small."""
        return transfer(f"{self.uri}/{name}", lambda: self._files.cat_file(self._path(name)), _CALL_S)

    def remove(self, name: str) -> None:
        """Removes a file, or a directory with all that is in it; nothing if there is none."""

        def removed() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm(self._path(name), recursive=True)

        transfer(f"{self.uri}/{name}", removed, _CALL_S)

    def writing(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Opens a file to be written from its beginning to its end; durable when the block ends."""
        return self._files.open(self._path(name), "wb")

    def reading(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Opens a file to be read from its beginning to its end."""
        return self._files.open(self._path(name), "rb")

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _client(uri: str) -> tuple[Any, str]:
    """The fsspec client for a URI, and the path in it. Without caches: another process changes what is there."""
    try:
        import fsspec  # installed only where an object store is used

        files, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except Exception as error:  # a third-party client may raise anything
        raise BackupError(f"{uri}: {type(error).__name__}: {error}: see that its fsspec client is installed") from error
    return files, root


class _LocalFiles:
    """A local directory behind the calls of an fsspec client that backups need: a gateway's image has no fsspec."""

    def ls(self, path: str, detail: bool) -> list[str]:
        """Paths of what is in a directory."""
        assert not detail
        return [f"{path}/{name}" for name in os.listdir(path)]

    def exists(self, path: str) -> bool:
        """Whether there is such a path."""
        return os.path.exists(path)

    def pipe_file(self, path: str, content: bytes) -> None:
        """Replaces a file atomically and durably."""
        _make_parents(path)
        temporary = Path(f"{path}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(Path(path).parent)

    def cat_file(self, path: str) -> bytes:
        """Reads a whole file."""
        return Path(path).read_bytes()

    def rm(self, path: str, recursive: bool) -> None:
        """Removes a file or a directory."""
        assert recursive
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    @contextlib.contextmanager
    def open(self, path: str, mode: str) -> Iterator[IO[bytes]]:
        """Opens a file; one that was written is on the disk when the block ends."""
        if mode == "wb":
            _make_parents(path)
        with open(path, mode, buffering=0) as file:
            yield file
            if mode == "wb":
                os.fsync(file.fileno())


def _make_parents(path: str) -> None:
    """Makes the directories above a file; a backup has hashes of tokens in it, and is closed to other users."""
    parent = Path(path).parent
    if not parent.is_dir():
        _make_parents(str(parent))
        parent.mkdir(mode=0o700, exist_ok=True)
