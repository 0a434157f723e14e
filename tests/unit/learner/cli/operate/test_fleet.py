"""`leeway fleet`: tokens are printed once and kept as hashes; a gateway reads what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.operate.local_run import LocalRun
from learner.cli.run.identities import add_fleet, issue_token
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.gateway.auth import Caller, Identities, PresentedCredentials, UnauthenticatedError
from runtime.settings import SettingsError
from tests.tools.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run").directory


def leeway(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["fleet", *arguments])
    return result.exit_code, result.output.strip()


def caller(run: RunDirectory, token: str | None = None, *sans: str) -> Caller:
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    return Identities(run.identities).caller(
        PresentedCredentials.of(metadata, {"x509_subject_alternative_name": [san.encode() for san in sans]})
    )


def test_from_the_first_token_to_the_last(run: RunDirectory):
    root = str(run.root)
    code, first = leeway("add", root, "rented")
    assert code == 0
    assert first not in run.identities.read_text()
    assert caller(run, first).fleet == "rented"
    _, second = leeway("add", root, "rented")
    assert caller(run, first).fleet == caller(run, second).fleet == "rented"
    assert leeway("revoke", root, "rented", "--older") == (0, "")
    with pytest.raises(UnauthenticatedError):
        caller(run, first)
    assert caller(run, second).roles == {"submit"}
    assert leeway("revoke", root, "rented") == (0, "")
    with pytest.raises(UnauthenticatedError):
        caller(run, second)


def test_certificates_and_roles(run: RunDirectory):
    root = str(run.root)
    arguments = ("add", root, "console", "--no-token", "--san", "console.test", "--role", "operate", "--role", "submit")
    assert leeway(*arguments) == (0, "")
    assert caller(run, None, "console.test").roles == {"submit", "operate"}
    assert leeway("add", root, "console", "--no-token", "--san", "second.test") == (0, "")
    assert caller(run, None, "second.test").roles == {"submit", "operate"}
    _, listed = leeway("list", root)
    assert listed.splitlines()[-1].split() == [
        "console",
        "operate,",
        "submit",
        "0",
        "console.test,",
        "second.test",
        "file",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "ROOT", "a b"), "'a b'"),
        (("add", "ROOT", "new", "--san", "taken.test"), "old and new share 'taken.test'"),
        (("add", "ROOT", "new", "--role", "root"), "--role 'root': expected submit, operate or evaluate"),
        (("revoke", "ROOT", "new"), "fleet 'new' is not known to"),
        (("revoke", "ROOT", "old", "--older"), "has 0 tokens, and no older one"),
        (("list", "/nonexistent"), "not a run directory"),
    ],
)
def test_mistakes_change_nothing(run: RunDirectory, arguments: tuple[str, ...], message: str):
    add_fleet(run, "old", sans=["taken.test"], token=False)
    before = run.identities.read_text()
    code, said = leeway(*(str(run.root) if argument == "ROOT" else argument for argument in arguments))
    assert (code, message in said.replace("\n", " ")) == (2, True)
    assert run.identities.read_text() == before


def test_the_machines_own_fleet_keeps_what_it_was_given(run: RunDirectory):
    issue_token(run, "local")
    add_fleet(run, "local", roles=["submit", "operate"], sans=["local.test"], token=False)
    issue_token(run, "local")
    identity = json.loads(run.identities.read_text())["local"]
    assert (len(identity["tokens"]), identity["sans"], identity["roles"]) == (1, ["local.test"], ["submit", "operate"])
    assert caller(run, run.secret("local").read_text().strip()).fleet == "local"
    with pytest.raises(SettingsError, match="share"):
        add_fleet(run, "other", sans=["local.test"])


def test_one_that_operators_have_added_is_not_hidden_by_the_file(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    """In the file it would hide the one in the queue, and its removal there would bring that one's tokens back."""
    monkeypatch.setattr(LocalRun, "_added", lambda self: ({"tokyo": {"tokens": ["0" * 64]}}, set()))
    with LocalRun(run) as local:
        for change in (lambda: local.add_fleet("tokyo", [], [], True), lambda: local.revoke_fleet("tokyo", False)):
            with pytest.raises(RunError, match="'tokyo' was added while the run was in progress"):
                change()
        assert local.add_fleet("oslo", [], [], True)
    assert set(json.loads(run.identities.read_text())) == {"oslo"}
