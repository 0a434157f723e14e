"""Checks that workers on other machines can read what the learner publishes."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from learner.config import PublishConfig

NONCE = "doctor.json"  # written on the learner's machine, read on the workers'
_OLD_S = 3600.0


def sharing(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that a random number (nonce) written to publish.dir is read where a worker looks for versions.

    A learner's file writes the nonce and leaves it there. A worker's file reads it, at the URI given by ``--weights``.
    """
    nonce = secrets.token_hex(8)
    if examined.learner is not None:
        yield from _publish_dir(examined, examined.learner.publish, nonce)
    if examined.kind == "worker":
        if examined.weights is None:
            text = "a worker's file does not say where the learner publishes"
            yield warn(
                "sharing", text, "run leeway doctor on the learner's file first, then on this one with --weights URI"
            )
        else:
            yield _read_nonce(examined.weights)


def _publish_dir(examined: ExaminedConfig, publish: PublishConfig, nonce: str) -> Iterator[Finding]:
    content = json.dumps({"nonce": nonce, "time": time.time(), "host": socket.gethostname()})
    for mirror in publish.mirror:
        yield _write_nonce(f"publish.mirror {mirror.name}: {mirror.url}", mirror.url, mirror.url_options, content)
    if publish.mirror:
        return
    directory = publish.dir
    if examined.kind == "run" and not directory.is_dir():
        yield ok("sharing", "one machine: workers read the directory that the learner writes")
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        yield fail("sharing", f"publish.dir = {directory}: {error.strerror}", "mount it writable")
        return
    yield _write_nonce(f"publish.dir = {directory}", directory.resolve().as_uri(), {}, content)


def _write_nonce(what: str, uri: str, options: dict[str, Any], content: str) -> Finding:
    try:
        store, root = _store(uri, options)
        store.pipe_file(f"{root}/{NONCE}", content.encode())
        read_back = store.cat_file(f"{root}/{NONCE}").decode()
    except Exception as error:  # noqa: BLE001 - fsspec drivers of others may raise anything
        return fail("sharing", f"{what}: {_short(error)}", "check the mount, or the store's credentials and endpoint")
    if read_back != content:
        return fail("sharing", f"{what}: what was written is not what was read back", "check the store's consistency")
    return ok("sharing", f"{what}: nonce {json.loads(content)['nonce']} written and read back")


def _read_nonce(uri: str) -> Finding:
    try:
        store, root = _store(uri, {})
        found = json.loads(store.cat_file(f"{root}/{NONCE}"))
        age = time.time() - float(found["time"])
    except FileNotFoundError:
        fix = "run leeway doctor on the learner's file first; then check that both machines mount the same directory"
        return fail("sharing", f"{uri}: no {NONCE} there", fix)
    except Exception as error:  # noqa: BLE001 - fsspec drivers of others may raise anything
        return fail("sharing", f"{uri}: {_short(error)}", "check the mount, or the store's credentials and endpoint")
    text = f"{uri}: nonce {found['nonce']}, written by {found['host']} {age:.0f} s ago"
    if age < _OLD_S:
        return ok("sharing", text)
    return warn("sharing", text, "run leeway doctor on the learner's file again and compare the nonces")


def _store(uri: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The client for a URI, and the path in it. Directories do without fsspec, which a gateway's image may lack."""
    address = urlsplit(uri)
    if address.scheme in ("", "file"):
        return _Directory(), unquote(address.path)
    import fsspec  # installed only where versions are in an object store

    store, root = fsspec.core.url_to_fs(uri, **options)
    return store, root.rstrip("/")


class _Directory:
    """A local directory behind the two calls of an fsspec client that the checks need."""

    def pipe_file(self, path: str, content: bytes) -> None:
        """Replaces a file atomically."""
        temporary = Path(f"{path}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)

    def cat_file(self, path: str) -> bytes:
        """Reads a whole file. Raises OSError."""
        return Path(path).read_bytes()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
