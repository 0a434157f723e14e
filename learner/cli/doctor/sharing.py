"""Published weights: written by the learner on one machine, read by workers on others."""

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

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.subject import Subject
from learner.config import PublishConfig

NONCE = "doctor.json"  # written at the learner's side, read at the workers'
_OLD_S = 3600.0


def sharing(subject: Subject) -> Iterator[Finding]:
    """A nonce written where the learner publishes is read back where workers look.

    A learner's file leaves the nonce there; a worker's file, given the URI by which its machine sees the place, reads it.
    """
    nonce = secrets.token_hex(8)
    if subject.learner is not None:
        yield from _publish_dir(subject, subject.learner.publish, nonce)
    if subject.kind == "worker":
        if subject.weights is None:
            text = "a worker's file does not say where the learner publishes"
            yield warn("sharing", text, "doctor the learner's file first, then this one with --weights URI")
        else:
            yield _seen(subject.weights)


def _publish_dir(subject: Subject, publish: PublishConfig, nonce: str) -> Iterator[Finding]:
    content = json.dumps({"nonce": nonce, "time": time.time(), "host": socket.gethostname()})
    if publish.url is not None:
        yield _written(f"publish.url = {publish.url}", publish.url, publish.url_options, content)
        return
    directory = publish.dir
    if subject.kind == "run" and not directory.is_dir():
        yield ok("sharing", "one machine: workers read what the learner writes")
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        yield fail("sharing", f"publish.dir = {directory}: {error.strerror}", "mount it, writable")
        return
    yield _written(f"publish.dir = {directory}", directory.resolve().as_uri(), {}, content)


def _written(what: str, uri: str, options: dict[str, Any], content: str) -> Finding:
    try:
        store, root = _store(uri, options)
        store.pipe_file(f"{root}/{NONCE}", content.encode())
        back = store.cat_file(f"{root}/{NONCE}").decode()
    except Exception as error:  # noqa: BLE001 - a client of somebody else's, which may raise anything
        return fail("sharing", f"{what}: {_short(error)}", "see the mount, or the store's credentials and endpoint")
    if back != content:
        return fail("sharing", f"{what}: what was written is not what was read back", "see the store's consistency")
    return ok("sharing", f"{what}: nonce {json.loads(content)['nonce']} written and read back")


def _seen(uri: str) -> Finding:
    try:
        store, root = _store(uri, {})
        found = json.loads(store.cat_file(f"{root}/{NONCE}"))
        age = time.time() - float(found["time"])
    except FileNotFoundError:
        fix = "doctor the learner's file first; then see that both sides mount the same"
        return fail("sharing", f"{uri}: no {NONCE} there", fix)
    except Exception as error:  # noqa: BLE001 - as above
        return fail("sharing", f"{uri}: {_short(error)}", "see the mount, or the store's credentials and endpoint")
    text = f"{uri}: nonce {found['nonce']}, written by {found['host']} {age:.0f} s ago"
    return (
        ok("sharing", text) if age < _OLD_S else warn("sharing", text, "doctor the learner's file again, and compare")
    )


def _store(uri: str, options: dict[str, Any]) -> tuple[Any, str]:
    """(fsspec client, path in it); a directory without fsspec's help, which a gateway's image may lack."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return _Directory(), unquote(parts.path)
    import fsspec  # only where versions lie in an object store

    store, root = fsspec.core.url_to_fs(uri, **options)
    return store, root.rstrip("/")


class _Directory:
    """The two calls of an fsspec client that we need."""

    def pipe_file(self, path: str, content: bytes) -> None:
        temporary = Path(f"{path}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)

    def cat_file(self, path: str) -> bytes:
        return Path(path).read_bytes()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
