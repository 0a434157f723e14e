"""How fleets reach a run that has no workers of its own."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.run_file import RunFile
from learner.cli.up.joining import how_to_join
from tests.tools.runs import DEMO


def lines(here: Path, *settings: str) -> list[str]:
    return how_to_join(RunFile.read(DEMO, [f"run.dir={here / 'runs' / 'r'}", *settings]), here)


def test_a_run_with_workers_says_nothing(tmp_path: Path):
    assert lines(tmp_path) == []


def test_a_run_without_workers_says_where_and_how(tmp_path: Path):
    address, add, token = lines(tmp_path, "rollout.workers=0", "gateway.listen=127.0.0.1:7001")
    assert "127.0.0.1:7001, in plain text" in address
    assert "rollout.workers = 0" in address
    assert add.endswith("leeway fleet add runs/r NAME")
    assert token.endswith("runs/r/secrets/local.token")


def test_tls_is_said_too(tmp_path: Path):
    settings = ['gateway.tls={certificate="a.pem",key="a.key"}', 'rollout.tls={ca="ca.pem"}']
    assert "over TLS" in lines(tmp_path, "rollout.workers=0", *settings)[0]
