"""The fleet's bearer token on this machine: made once, kept in a file only we can read, known to the gateway by hash."""

from __future__ import annotations

import hashlib
import json
import os
import secrets

from learner.cli.layout import RunDirectory


def issue_token(run: RunDirectory, fleet: str) -> None:
    """Makes the fleet's token unless it has one, and writes identities.json."""
    path = run.secret(fleet)
    if not path.is_file():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    digest = hashlib.sha256(path.read_text().strip().encode()).hexdigest()
    known = json.loads(run.identities.read_text()) if run.identities.is_file() else {}
    identity = {"tokens": [digest], "roles": ["submit"]}
    run.identities.write_text(json.dumps({**known, fleet: identity}, indent=2) + "\n")
