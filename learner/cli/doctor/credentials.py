"""Checks tokens, identities and the permissions of files that contain secrets."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from learner.gateway.auth import Identities, PresentedCredentials, UnauthenticatedError
from runtime.settings import SettingsError

_LISTED_FLEETS = 5


def credentials(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that the identities file names a fleet, that workers' tokens are known, and that secrets are unreadable to
    other users."""
    identities = None
    if examined.gateway is not None:
        path = examined.gateway.identities_file
        if examined.run is not None and not path.is_file():
            yield ok("identities", "`leeway up` will make them, with a token for this machine's fleet")
        else:
            try:
                identities = Identities(path)
            except SettingsError as error:
                yield fail("identities", str(error), "make it with `leeway fleet add`, or mount the Secret")
            else:
                yield _fleets(identities, path)
    for worker in examined.workers:
        if worker.token_file is not None and not (examined.run is not None and not worker.token_file.exists()):
            yield _token(worker.token_file, identities)
    yield from _file_modes(examined)


def _fleets(identities: Identities, path: Path) -> Finding:
    submitters = sorted(identities.submitters())
    if not submitters:
        return fail("identities", f"{path}: no fleet may submit", "add one: `leeway fleet add RUN NAME`")
    more = ", ..." if len(submitters) > _LISTED_FLEETS else ""
    return ok("identities", f"{path}: these fleets may submit: {', '.join(submitters[:_LISTED_FLEETS])}{more}")


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
        return ok("token", f"{path}: readable; only `leeway doctor` on the gateway's file can tell whether it is known")
    try:
        caller = identities.caller(PresentedCredentials(hashlib.sha256(token.encode()).hexdigest(), frozenset()))
    except UnauthenticatedError as error:
        return fail("token", f"{path}: {error} (for the gateway)", "`leeway fleet add` makes a new one")
    if "submit" not in caller.roles:
        return fail("token", f"{path}: fleet {caller.fleet} may not submit", "`leeway fleet add --role submit`")
    return ok("token", f"{path}: the token of fleet {caller.fleet}")


def _file_modes(examined: ExaminedConfig) -> Iterator[Finding]:
    """Warns of secrets that every user can read. Secrets mounted by Kubernetes are readable for root and our group only."""
    secrets: list[Path] = []
    if examined.gateway is not None and examined.gateway.tls is not None:
        secrets.append(examined.gateway.tls.key)
    for worker in examined.workers:
        secrets += [path for path in (worker.token_file, worker.tls.key if worker.tls else None) if path is not None]
    queue = examined.queue
    if queue is not None:
        secrets += [path for path in (queue.password_file, queue.tls.key) if path is not None]
    for path in dict.fromkeys(secrets):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            continue  # the check that reads the file reports it
        if mode & stat.S_IROTH:
            yield warn("permissions", f"{path}: mode {mode:04o}, every user may read it", f"chmod 600 {path}")
