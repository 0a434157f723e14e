"""A run's identities: tokens that are issued, and what stands in the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from learner.cli.run.identities import issue_token
from tests.tools.runs import make_run


def test_an_empty_token_file_is_written_again_and_never_becomes_a_token(tmp_path: Path):
    """A full disk, or a kill between opening and writing, leaves it empty: everybody has that token."""
    run = make_run(tmp_path / "run").directory
    secret = run.secret("operator")
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("")
    issue_token(run, "operator", "operate")
    token = secret.read_text().strip()
    known = json.loads(run.identities.read_text())["operator"]["tokens"]
    assert len(token) > 30
    assert known == [hashlib.sha256(token.encode()).hexdigest()]
    issue_token(run, "operator", "operate")
    assert secret.read_text().strip() == token
