"""`leeway doctor` as a whole: a fresh clone passes, and a file that no process would accept is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.doctor import examine, ports
from learner.queue.acl import COMMANDS
from learner.queue.server_inspection import HARMLESS
from tests.tools.doctor_site import Site, bad, examined_run
from tests.tools.runs import DEMO


def test_a_fresh_clone_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ports, "require_free", lambda *_: None)  # other tests listen
    found = list(examine(DEMO, [f"run.dir={tmp_path / 'run'}"]))
    assert [one for one in found if one.state == "fail"] == []
    assert {"configuration", "ports", "redis", "model", "disk", "disk speed", "gpus", "torch", "sglang"} <= {
        one.check for one in found
    }
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_lines_or_json_and_its_status_tells(tmp_path: Path):
    path = tmp_path / "broken.toml"
    path.write_text("listen = 3\nidentities_file = 'x'\n")
    answer = CliRunner().invoke(app, ["doctor", str(path)])
    assert answer.exit_code == 1
    assert answer.output.startswith("fail  configuration")
    rows = json.loads(CliRunner().invoke(app, ["doctor", str(path), "--json"]).output)
    assert {row["state"] for row in rows} == {"fail"}
    assert any("queue is missing" in row["found"] for row in rows)


def test_the_kind_of_file_is_seen_and_what_is_none_is_refused(site: Site):
    assert [site.read(kind).kind for kind in ("gateway", "learner", "worker")] == ["gateway", "learner", "worker"]
    assert examined_run(site).kind == "run"
    (site.root / "other.toml").write_text("x = 1\n")
    assert "neither a run file" in bad(examine(site.root / "other.toml"))[0]


def test_every_command_of_our_redis_user_is_tried():
    assert HARMLESS.keys() == set(COMMANDS)
    for name, words in HARMLESS.items():
        assert name.split("|")[0].upper() == words[0]
