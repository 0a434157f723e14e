"""A run's identities.json: each fleet with its token hashes, certificate names and roles."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from learner.cli.run.run_directory import RunDirectory, RunError
from learner.gateway.auth import Identities, Role


def issue_token(run: RunDirectory, fleet: str, role: Role = "submit") -> None:
    """Makes a fleet of this machine, or its evaluator, known to the gateway.

    Draws its token, unless it already has one, and writes it to a file that only this user can read.

    Args:
        run: the run whose gateways shall know it.
        fleet: its name.
        role: what it may do, if it is new.
    """
    path = run.secret(fleet)
    if (
        not path.is_file() or not path.read_text().strip()
    ):  # empty: the disk was full, or a kill came while it was written
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    digest = _sha256(path.read_text().strip())
    with _changed(run) as fleets:
        identity = fleets.setdefault(fleet, {"tokens": [], "roles": [role]})
        if digest not in identity.setdefault("tokens", []):
            identity["tokens"].append(digest)


def add_fleet(
    run: RunDirectory, fleet: str, roles: Sequence[Role] = (), sans: Sequence[str] = (), token: bool = True
) -> str | None:
    """Adds a token, certificate names or roles to a fleet, new or known. Running gateways use them within a second.

    Args:
        run: the run whose gateways shall know the fleet.
        fleet: its name.
        roles: the roles it has from now on; empty: a known fleet keeps its roles, a new one may submit.
        sans: subject alternative names of certificates that identify this fleet, added to those it has.
        token: draw a new bearer token; older ones stay valid, so that a token can be replaced without a pause.

    Returns:
        The token, of which only the hash is stored; None when none was drawn.

    Raises:
        SettingsError: the fleet's name is not allowed, or a certificate name belongs to another fleet.
    """
    drawn = secrets.token_urlsafe(32) if token else None
    with _changed(run) as fleets:
        identity = fleets.setdefault(fleet, {"roles": ["submit"]})
        if drawn is not None:
            identity["tokens"] = [*identity.get("tokens", []), _sha256(drawn)]
        if sans:
            identity["sans"] = list(dict.fromkeys([*identity.get("sans", []), *sans]))
        if roles:
            identity["roles"] = list(dict.fromkeys(roles))
    return drawn


def revoke_fleet(run: RunDirectory, fleet: str, older: bool = False) -> None:
    """Removes a fleet, or all its tokens but the newest. Gateways end streams with those credentials within a second.

    Args:
        run: the run whose gateways shall forget them.
        fleet: the fleet's name.
        older: remove only the tokens before the newest one.

    Raises:
        RunError: there is no such fleet, or it has no older token.
    """
    with _changed(run) as fleets:
        if fleet not in fleets:
            raise RunError(f"fleet {fleet!r} is not known to {run.root}; known: {', '.join(sorted(fleets)) or 'none'}")
        if not older:
            del fleets[fleet]
            return
        tokens = fleets[fleet].get("tokens", [])
        if len(tokens) < 2:
            raise RunError(
                f"fleet {fleet!r} has {len(tokens)} token{'' if len(tokens) == 1 else 's'}, and no older one"
            )
        fleets[fleet]["tokens"] = tokens[-1:]


def fleets_of(run: RunDirectory) -> dict[str, Any]:
    """The content of identities.json: fleet name -> {"tokens", "sans", "roles"}; {} when there is no file yet."""
    return json.loads(run.identities.read_text()) if run.identities.is_file() else {}


@contextlib.contextmanager
def _changed(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Yields the identities for changes; writes them atomically afterwards if they are valid. Excludes other writers."""
    with (run.root / "identities.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fleets = fleets_of(run)
        yield fleets
        temporary = run.identities.with_suffix(".new")
        temporary.write_text(json.dumps(fleets, indent=2) + "\n")
        try:
            Identities(temporary)  # as a gateway would read it
        except BaseException:
            temporary.unlink()
            raise
        temporary.replace(run.identities)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
