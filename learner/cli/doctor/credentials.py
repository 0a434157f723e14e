"""Tokens, identities and the files that hold secrets."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from learner.cli.doctor.finding import Finding, fail, ok, warn
from learner.cli.doctor.subject import Subject
from learner.gateway.auth import Identities, PresentedCredentials, UnauthenticatedError
from runtime.settings import SettingsError


def credentials(subject: Subject) -> Iterator[Finding]:
    """The identities file is sound and names a fleet; the worker's token is one of its; secrets are closed to others."""
    identities = None
    if subject.gateway is not None:
        path = subject.gateway.identities_file
        if subject.run is not None and not path.is_file():
            yield ok("identities", "made by `leeway up`, with a token for this machine's fleet")
        else:
            try:
                identities = Identities(path)
            except SettingsError as error:
                yield fail("identities", str(error), "make it with `leeway fleet add`, or mount the Secret")
            else:
                yield _fleets(identities, path)
    for worker in subject.workers:
        if worker.token_file is not None and not (subject.run is not None and not worker.token_file.exists()):
            yield _token(worker.token_file, identities)
    yield from _closed(subject)


def _fleets(identities: Identities, path: Path) -> Finding:
    submitters = identities.submitters()
    if not submitters:
        return fail("identities", f"{path}: no fleet may submit", "add one: `leeway fleet add RUN NAME`")
    more = ", ..." if len(submitters) > 5 else ""
    return ok("identities", f"{path}: may submit: {', '.join(sorted(submitters)[:5])}{more}")


def _token(path: Path, identities: Identities | None) -> Finding:
    fix = "write the token that `leeway fleet add` printed, or mount the Secret"
    try:
        token = path.read_text().strip()
    except OSError as error:
        return fail("token", f"token_file = {path}: {error.strerror}", fix)
    if not token:
        return fail("token", f"token_file = {path}: the file is empty", fix)
    if any(character.isspace() or not character.isascii() for character in token):
        return fail("token", f"token_file = {path}: more than one word, or not ASCII", fix)
    if identities is None:
        return ok("token", f"{path}: readable; whether the gateway knows it is seen at its side")
    try:
        caller = identities.caller(PresentedCredentials(hashlib.sha256(token.encode()).hexdigest(), frozenset()))
    except UnauthenticatedError as error:
        return fail("token", f"{path}: {error} (for the gateway)", "`leeway fleet add` draws another")
    if "submit" not in caller.roles:
        return fail("token", f"{path}: fleet {caller.fleet} may not submit", "`leeway fleet add --role submit`")
    return ok("token", f"{path}: of fleet {caller.fleet}")


def _closed(subject: Subject) -> Iterator[Finding]:
    """Secrets that other users of the machine can read. A Secret mounted by Kubernetes belongs to root and our group."""
    secret: list[Path] = []
    if subject.gateway is not None and subject.gateway.tls is not None:
        secret.append(subject.gateway.tls.key)
    for worker in subject.workers:
        secret += [path for path in (worker.token_file, worker.tls.key if worker.tls else None) if path is not None]
    queue = subject.queue
    if queue is not None:
        secret += [path for path in (queue.password_file, queue.tls.key) if path is not None]
    for path in dict.fromkeys(secret):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            continue  # said elsewhere
        if mode & stat.S_IROTH:
            yield warn("permissions", f"{path}: mode {mode:04o}, every user may read it", f"chmod 600 {path}")
