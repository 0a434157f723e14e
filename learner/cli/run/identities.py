"""A run's identities: which fleets there are, by the hashes of their tokens and the names in their certificates."""

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


def issue_token(run: RunDirectory, fleet: str) -> None:
    """Makes this machine's own fleet known: draws its token unless it has one, in a file that only we can read."""
    path = run.secret(fleet)
    if not path.is_file():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    digest = _sha256(path.read_text().strip())
    with _changed(run) as fleets:
        identity = fleets.setdefault(fleet, {"tokens": [], "roles": ["submit"]})
        if digest not in identity.setdefault("tokens", []):
            identity["tokens"].append(digest)


def add_fleet(
    run: RunDirectory, fleet: str, roles: Sequence[Role] = (), sans: Sequence[str] = (), token: bool = True
) -> str | None:
    """Adds a token, or certificate names, or roles, to a fleet that may be new. Running gateways see it within a second.

    Args:
        run: whose gateways shall know it.
        fleet: its name.
        roles: those it has from now on; none given: as before, for a new fleet submit.
        sans: subject alternative names of certificates that are this fleet's.
        token: draw a new bearer token; older ones stay valid, so that a token can be replaced without a pause.

    Returns:
        The token, which is kept nowhere else; None when none was drawn.

    Raises:
        SettingsError: a name that cannot be one, or a certificate's name that is another fleet's.
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
    """Forgets a fleet, or all its tokens but the newest: gateways end the streams of these credentials within a second.

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
    """The content of identities.json; {} when there is none yet."""
    return json.loads(run.identities.read_text()) if run.identities.is_file() else {}


@contextlib.contextmanager
def _changed(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """The identities, to be changed in the block; written whole and checked, or not at all. One writer at a time."""
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
