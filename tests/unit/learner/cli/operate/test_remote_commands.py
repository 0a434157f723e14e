"""Commands with --gateway against a scripted gateway: what they ask for, what they print, with which status they end."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from learner.cli.app import app
from learner.cli.run.identities import add_fleet, fleets_of, issue_token
from learner.cli.run.run_directory import RunDirectory
from learner.gateway.identity_changes import IN_FILE
from leeway.v1 import operator_pb2 as op
from leeway.v1 import rollout_pb2 as pb
from tests.tools.runs import make_run
from tests.tools.scripted_operator import TOKEN, ScriptedOperator, scripted_operator

Leeway = Callable[..., Result]
PENDING, APPLIED, REFUSED = op.CHANGE_STATE_PENDING, op.CHANGE_STATE_APPLIED, op.CHANGE_STATE_REFUSED


@pytest.fixture
def gateway() -> Iterator[ScriptedOperator]:
    with scripted_operator() as served:
        yield served


@pytest.fixture
def leeway(gateway: ScriptedOperator, tmp_path: Path) -> Leeway:
    """Runs a command for the run at the gateway."""
    file = tmp_path / "operator.token"
    file.write_text(TOKEN)

    def call(*arguments: object) -> Result:
        words = ["--gateway", gateway.address, "--token-file", str(file), *map(str, arguments)]
        return CliRunner().invoke(app, words, env={"COLUMNS": "200"})

    return call


def change(state: op.ChangeState, **values: Any) -> op.RecordedChange:
    pause = op.Change(pause=op.Pause())
    return op.RecordedChange(**{"number": 7, "request_id": "x", "change": pause, "state": state, **values})


def requested(gateway: ScriptedOperator, state: op.ChangeState = APPLIED, **values: Any) -> None:
    gateway.replies["RequestChange"] = [op.RequestChangeResponse(change=change(state, **values))]


def test_status_says_what_operators_have_changed(gateway: ScriptedOperator, leeway: Leeway):
    gateway.replies |= {
        "GetRunStatus": [
            op.GetRunStatusResponse(
                run="weeks", state="paused", step=120, epoch=2, version=30, changed_settings={"optimizer.lr": "1e-05"},
                drained_fleets=["paris"], streams={"tokyo": 2}, last_step={"reward": 0.5, "lr": 1e-5},
            )
        ],
        "ListLedgers": [pb.ListLedgersResponse(ledgers=[pb.Ledger(fleet="tokyo", received=3, accepted=3, trained=3)])],
        "ListEvaluations": [op.ListEvaluationsResponse(evaluations=[evaluation(4)])],
    }  # fmt: skip
    result = leeway("status")
    assert result.exit_code == 0, result.output
    for words in ("weeks", "paused", "optimizer.lr=1e-05", "tokyo 2", "lr 1.0e-05", "drained fleets", "paris",
                  "ledger of tokyo: 3 accepted = 3 trained; balances", "evaluation sort, greedy: mean@1 0.500"):  # fmt: skip
        assert words in result.output


def evaluation(version: int) -> pb.Evaluation:
    found = pb.Evaluation(version=version, name="sort", sampling="greedy", prompts=8, samples=1)
    found.metrics["mean@1"].CopyFrom(pb.Interval(value=0.5, low=0.4, high=0.6))
    return found


def test_the_ledger_and_its_recount(gateway: ScriptedOperator, leeway: Leeway):
    broken = pb.Ledger(fleet="tokyo", received=3, accepted=2)
    gateway.replies |= {
        "ListLedgers": [pb.ListLedgersResponse(ledgers=[broken])],
        "RecountLedgers": [
            op.RecountLedgersResponse(
                groups=2,
                discrepancies=["fleet 'tokyo': 2 are in the stream"],
                unverified=["fleet 'oslo' kept changing"],
            ),
            op.RecountLedgersResponse(groups=2, unverified=["fleet 'oslo' kept changing"]),
        ],
    }
    result = leeway("ledger", "--check", "--recount", "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["ledgers"][0]["accepted"] == 2
    assert content["recount"] == {
        "entries": 2,
        "discrepancies": ["fleet 'tokyo': 2 are in the stream"],
        "unverified": ["fleet 'oslo' kept changing"],
    }
    assert "the ledger does not balance: fleet 'tokyo'" in result.stderr
    assert "fleet 'paris' never submitted to the run at 127.0.0.1:" in leeway("ledger", "--fleet", "paris").stderr
    busy = leeway("ledger", "--recount")
    assert busy.exit_code == 0, "what could not be compared is no difference"
    assert "not verified: fleet 'oslo' kept changing" in busy.stdout


def test_a_refusal_that_is_not_about_the_file_says_nothing_of_a_secret(gateway: ScriptedOperator, leeway: Leeway):
    last = (grpc.StatusCode.FAILED_PRECONDITION, "nobody could operate this run any more")
    gateway.replies |= {"AddIdentity": [last], "RevokeIdentity": [last]}
    for result in (leeway("fleet", "add", "tokyo"), leeway("fleet", "revoke", "tokyo")):
        assert (result.exit_code != 0, result.stdout) == (True, "")
        assert "nobody could operate" in result.stderr
        assert "kubectl" not in result.stderr


def test_the_quarantine(gateway: ScriptedOperator, leeway: Leeway):
    kept = op.QuarantinedGroup(
        key="0a", fleet="tokyo", reason="bad_value", field="temperature", value="-1", group=pb.Group()
    )
    gateway.replies |= {
        "ListQuarantine": [[kept]],
        "ReplayQuarantine": [op.ReplayQuarantineResponse(groups=[
            op.ReplayedGroup(key="0a", left=True, outcome="accepted"), op.ReplayedGroup(key="0b", outcome="stays: why")])],
        "PurgeQuarantine": [op.PurgeQuarantineResponse(deleted=5)],
    }  # fmt: skip
    assert "temperature" in leeway("quarantine", "list", "--fleet", "tokyo").output
    assert json.loads(leeway("quarantine", "show", "0a").stdout)[0]["key"] == "0a"
    assert gateway.asked("ListQuarantine") == [
        op.ListQuarantineRequest(fleet="tokyo"), op.ListQuarantineRequest(keys=["0a"])
    ]  # fmt: skip
    result = leeway("quarantine", "replay", "0a", "0b")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "1 submitted, 1 stay in quarantine")
    assert leeway("quarantine", "purge", "--fleet", "tokyo").stdout == "5 deleted\n"


def test_versions_evaluations_and_pins(gateway: ScriptedOperator, leeway: Leeway):
    versions = [
        op.ListedVersion(policy=pb.Policy(version=v, step=v, epoch=1), pinned=v == 3, best=v == 4) for v in (4, 3)
    ]
    versions[0].run_by.append("tokyo/worker-0")
    gateway.replies |= {
        "ListVersions": [op.ListVersionsResponse(versions=versions)],
        "ListEvaluations": [op.ListEvaluationsResponse(evaluations=[evaluation(4)])],
    }
    lines = leeway("policy", "list").output.splitlines()
    assert "bytes" not in lines[0]
    assert "pinned" in lines[1]
    assert "newest, best" in lines[2]
    assert "tokyo/worker-0" in lines[2]
    assert "sort greedy 0.500" in lines[2]
    assert "0.500 [0.400, 0.600]" in leeway("evaluations").output
    assert json.loads(leeway("evaluations", "--json").stdout)[0]["metrics"] == {"mean@1": [0.5, 0.4, 0.6]}
    requested(gateway)
    assert leeway("policy", "pin", 3, "--off").exit_code == 0
    assert leeway("policy", "rollback", 3).exit_code == 0
    kinds = [request.change.WhichOneof("kind") for request in gateway.asked("RequestChange")]
    assert kinds == ["unpin", "rollback"]


def test_a_token_is_printed_only_when_the_gateway_knows_it(gateway: ScriptedOperator, leeway: Leeway):
    gateway.replies["AddIdentity"] = [(grpc.StatusCode.INVALID_ARGUMENT, "sans: taken"), op.AddIdentityResponse()]
    result = leeway("fleet", "add", "tokyo", "--san", "tokyo.test")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: sans: taken\n")
    result = leeway("fleet", "add", "tokyo", "--role", "operate")
    assert result.exit_code == 0
    asked = gateway.asked("AddIdentity")[-1]
    assert hashlib.sha256(result.stdout.strip().encode()).hexdigest() == asked.token_sha256
    assert (asked.name, list(asked.roles)) == ("tokyo", ["operate"])


KUBECTL = """\
#!/bin/sh
if [ "$1" = get ]; then cat secret.json; else cat > patch.json; echo "$*" > patch.args; fi
"""


def test_a_fleet_of_a_clusters_secret_is_changed_by_the_printed_command(
    gateway: ScriptedOperator, leeway: Leeway, tmp_path: Path
):
    refused = (grpc.StatusCode.FAILED_PRECONDITION, f"tokyo: {IN_FILE}: change it there")
    gateway.replies |= {"AddIdentity": [refused], "RevokeIdentity": [refused]}
    before = {"tokyo": {"tokens": ["0" * 64], "roles": ["submit"]}, "paris": {"tokens": ["1" * 64]}}
    content = base64.b64encode(json.dumps(before).encode()).decode()
    (tmp_path / "secret.json").write_text(json.dumps({"data": {"identities.json": content}}))
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)

    def run_printed(result: Result) -> dict[str, Any]:
        assert result.exit_code == 1
        assert IN_FILE in result.stderr
        command = result.stderr[result.stderr.index("kubectl get") :].split("\n\n")[0]
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=environment, check=True, timeout=60)
        assert (tmp_path / "patch.args").read_text().startswith("patch secret leeway-identities --type merge")
        patch = json.loads((tmp_path / "patch.json").read_text())
        return json.loads(base64.b64decode(patch["data"]["identities.json"]))

    result = leeway("fleet", "add", "tokyo", "--san", "it's tokyo")
    assert "no gateway accepts this token before that command has run" in result.stderr
    digest = hashlib.sha256(result.stdout.strip().encode()).hexdigest()
    mine = {"tokens": ["0" * 64, digest], "roles": ["submit"], "sans": ["it's tokyo"]}
    assert run_printed(result) == {**before, "tokyo": mine}
    result = leeway("fleet", "revoke", "tokyo")
    assert result.stdout == ""
    assert run_printed(result) == {"paris": before["paris"]}


def test_fleets_are_listed_with_where_they_are_kept(gateway: ScriptedOperator, leeway: Leeway):
    identities = [op.Identity(name="b", roles=["submit"], added=True, drained=True), op.Identity(name="a", tokens=2)]
    gateway.replies["ListIdentities"] = [op.ListIdentitiesResponse(identities=identities)]
    rows = [line.split() for line in leeway("fleet", "list").output.splitlines()[1:]]
    assert rows == [["a", "2", "file"], ["b", "submit", "0", "queue", "drained"]]


@pytest.mark.parametrize(
    ("states", "status", "words"),
    [
        ([APPLIED], 0, "change 7, pause: applied before step 12"),
        ([PENDING, APPLIED], 0, "applied"),
        ([PENDING, REFUSED], 1, "refused before step 12; no space"),
        ([PENDING, PENDING], 3, "pending"),
    ],
)
def test_what_became_of_a_change(
    gateway: ScriptedOperator, leeway: Leeway, states: list[op.ChangeState], status: int, words: str
):
    records = [change(one, step=12, reason="no space" if one == REFUSED else "") for one in states]
    gateway.replies["RequestChange"] = [op.RequestChangeResponse(change=records[0])]
    gateway.replies["ListChanges"] = [op.ListChangesResponse(changes=[one]) for one in records[1:]]
    result = leeway("ctl", "pause", "--timeout", "0.3")
    assert (result.exit_code, words in result.stdout) == (status, True), result.output


def test_no_wait_does_not_look(gateway: ScriptedOperator, leeway: Leeway):
    requested(gateway, PENDING)
    assert leeway("ctl", "resume", "--no-wait").exit_code == 3
    assert gateway.asked("ListChanges") == []


def test_every_change_is_requested_as_it_is_called(gateway: ScriptedOperator, leeway: Leeway):
    requested(gateway)
    calls = [
        ("pause",), ("resume",), ("checkpoint",), ("publish",), ("finish",), ("rollback", 0), ("drain", "tokyo"),
        ("undrain", "tokyo"), ("set", "lr=1e-5", "weights.tokyo=2"), ("unset", "learner.optimizer.lr"),
    ]  # fmt: skip
    for call in calls:
        assert leeway("ctl", *call).exit_code == 0, call
    assert leeway("fleet", "drain", "paris").exit_code == 0
    asked = [request.change for request in gateway.asked("RequestChange")]
    assert [one.WhichOneof("kind") for one in asked] == [*(call[0] for call in calls), "drain"]
    assert asked[5].rollback.version == 0
    assert asked[6].drain.fleet == "tokyo"
    assert dict(asked[8].set.values) == {"optimizer.lr": "1e-05", "weights.tokyo": "2"}
    assert list(asked[9].unset.names) == ["optimizer.lr"]
    assert asked[10].drain.fleet == "paris"
    assert len({request.request_id for request in gateway.asked("RequestChange")}) == len(asked)


def test_the_log(gateway: ScriptedOperator, leeway: Leeway):
    setting = op.Change(set=op.SetSettings(values={"optimizer.lr": "1e-05"}))
    record = change(APPLIED, number=3, operator="ann", change=setting, step=9,
                    old_values={"optimizer.lr": "0.0001"}, new_values={"optimizer.lr": "1e-05"})  # fmt: skip
    pages = [op.ListChangesResponse(changes=[change(REFUSED, number=2)]), op.ListChangesResponse(changes=[record])]
    gateway.replies["ListChanges"] = [*pages, op.ListChangesResponse()]
    rows = json.loads(leeway("ctl", "log", "--json").stdout)
    assert [(row["number"], row["state"]) for row in rows] == [(2, "refused"), (3, "applied")]
    assert (rows[1]["operator"], rows[1]["old"], rows[1]["new"]) == (
        "ann",
        {"optimizer.lr": 0.0001},
        {"optimizer.lr": 1e-5},
    )
    assert [request.after for request in gateway.asked("ListChanges")] == [0, 2, 3]
    gateway.replies["ListChanges"] = [op.ListChangesResponse(changes=[record]), op.ListChangesResponse()]
    line = leeway("ctl", "log").output.splitlines()[1]
    for words in ("ann", "set optimizer.lr=1e-05", "optimizer.lr=0.0001", "applied", "9"):
        assert words in line


def test_waiting_groups_are_shown_as_ids_or_as_text(gateway: ScriptedOperator, leeway: Leeway, tmp_path: Path):
    ids = b"".join(number.to_bytes(4, "little") for number in (5, 1))
    response = pb.Response(tokens=ids, reward=1.0, spans=[pb.Span(version=3, start=0, end=2)])
    group = pb.Group(group_id="g-0001", prompt_id="p", task="sort", prompt_tokens=ids, responses=[response])
    gateway.replies["ListGroups"] = [[op.ListedGroup(fleet="tokyo", group=group)]]
    assert "5 1" in leeway("rollouts", "waiting", "--fleet", "tokyo", "-n", 3).output
    assert gateway.asked("ListGroups") == [op.ListGroupsRequest(fleet="tokyo", limit=3)]
    words = {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "world": 1, "hello": 5}, "unk_token": "[UNK]"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **words}))
    output = leeway("rollouts", "waiting", "--tokenizer", tmp_path, "--whole").output
    assert "hello world" in output
    assert "version 3: 2" in output
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "cannot be read as a tokenizer" in leeway("rollouts", "waiting", "--tokenizer", tmp_path).stderr


@pytest.mark.parametrize(
    "call", [("policy", "verify"), ("report",), ("stop",), ("queue", "status"), ("rollouts", "tail")]
)
def test_commands_that_need_the_files_say_so(leeway: Leeway, call: tuple[str, ...]):
    result = leeway(*call)
    assert result.exit_code == 2
    assert "this needs the run's files" in result.stderr
    environment = {"LEEWAY_GATEWAY": "gateway:1", "COLUMNS": "200"}
    result = CliRunner().invoke(app, [*call, "nowhere"], env=environment)  # the environment alone changes nothing
    assert "nowhere" in result.stderr


def test_a_directory_and_a_gateway_exclude_each_other(leeway: Leeway, tmp_path: Path):
    run = make_run(tmp_path / "run").directory
    result = leeway("status", run.root)
    assert result.exit_code == 2
    assert "leave one out" in result.stderr


def test_help_is_there_with_a_gateway_in_the_environment():
    result = CliRunner().invoke(app, ["ctl", "set", "--help"], env={"LEEWAY_GATEWAY": "g:1", "COLUMNS": "120"})
    assert result.exit_code == 0
    assert "NAME=VALUE" in result.output


@pytest.fixture
def in_progress(gateway: ScriptedOperator, tmp_path: Path) -> Iterator[RunDirectory]:
    """A run in progress whose gateway is the scripted one."""
    run_file = make_run(tmp_path / "run")
    run = run_file.directory
    values = json.loads(run.settings.read_text())
    values["gateway"]["listen"] = gateway.address.replace("127.0.0.1", "0.0.0.0")
    run.settings.write_text(json.dumps(values))
    run.secret("operator").write_text(TOKEN)
    issue_token(run, "operator", "operate")
    with run.lock():
        yield run


def test_a_run_in_progress_is_changed_through_its_gateway(gateway: ScriptedOperator, in_progress: RunDirectory):
    def leeway_in(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})

    requested(gateway)
    gateway.replies |= {
        "AddIdentity": [op.AddIdentityResponse()],
        "PurgeQuarantine": [op.PurgeQuarantineResponse(deleted=1)],
    }
    root = in_progress.root
    for call in (("ctl", "pause", root), ("policy", "pin", root, 3), ("policy", "rollback", root, 3)):
        assert leeway_in(*call).exit_code == 0, call
    assert leeway_in("quarantine", "purge", root).stdout == "1 deleted\n"
    assert leeway_in("fleet", "add", root, "tokyo").exit_code == 0
    assert [request.name for request in gateway.asked("AddIdentity")] == ["tokyo"]
    # What is in the run's own file is changed there.
    add_fleet(in_progress, "old")
    assert leeway_in("fleet", "revoke", root, "old").exit_code == 0
    assert "old" not in fleets_of(in_progress)


def test_a_run_that_is_not_in_progress_has_no_gateway(tmp_path: Path):
    run = make_run(tmp_path / "run").directory
    result = CliRunner().invoke(app, ["ctl", "pause", str(run.root)])
    assert result.exit_code == 2
    assert "the run is not in progress" in result.stderr
    assert "--resume" in result.stderr
