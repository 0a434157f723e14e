"""Tests of the end-to-end tests' account against a case worked by hand, with lost timelines."""

import json
from pathlib import Path

from tests.e2e.accounts import Accounts


def write(path: Path, *rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_steps_after_a_fork_do_not_survive_and_repetition_shows(tmp_path: Path):
    write(
        tmp_path / "metrics/learner.jsonl",
        {"kind": "start", "epoch": 1, "resumed_step": 0},
        {"kind": "start", "epoch": 2, "resumed_step": 2},
        {"kind": "start", "epoch": 3, "resumed_step": 1},
    )
    write(
        tmp_path / "metrics/trained.jsonl",
        {"step": 1, "epoch": 1, "groups": [["f", "a"]]},
        {"step": 2, "epoch": 1, "groups": [["f", "b"]]},  # epoch 3 forked at step 1: lost
        {"step": 3, "epoch": 1, "groups": [["f", "c"]]},
        {"step": 3, "epoch": 2, "groups": [["f", "c"]]},
        {"step": 2, "epoch": 3, "groups": [["f", "a"], ["f", "b"]]},  # a is in the weights twice
    )
    write(tmp_path / "state/w.acked.jsonl", {"group_id": "a"}, {"group_id": "b"}, {"group_id": "c"})
    accounts = Accounts.read(tmp_path, fleet="f")
    assert accounts.surviving == [("f", "a"), ("f", "a"), ("f", "b")]
    assert accounts.acked == {("f", "a"), ("f", "b"), ("f", "c")}
