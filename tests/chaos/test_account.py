"""Tests of the account, schedule and pauses of chaos runs, against cases worked by hand."""

import json
from collections import Counter
from pathlib import Path

from tests.chaos.account import Account, lineage
from tests.chaos.pauses import longest_pauses
from tests.chaos.schedule import KILLS, schedule


def write(path: Path, *rows: dict, tail: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def start(epoch: int, step: int, of: int | None) -> dict:
    return {"kind": "start", "epoch": epoch, "resumed_step": step, "resumed_epoch": of}


def ack(id_: str, outcome: str = "ACCEPTED", reason: str = "") -> dict:
    return {"kind": "ack", "id": id_, "outcome": outcome, "reason": reason}


def test_the_lineage_follows_checkpoints_and_not_the_order_of_starts():
    # 2 went on from 1's step 8, 3 from 1's step 4 again: nothing of 2 survives. 4 went on from 3's step 6.
    starts = [start(1, 0, None), start(2, 8, 1), start(3, 4, 1), start(4, 6, 3)]
    assert lineage(starts) == {4: float("inf"), 3: 6, 1: 4}
    # 5 resumed from what a zombie of epoch 2 had completed at step 10: then that is what the weights contain.
    assert lineage([*starts, start(5, 10, 2)]) == {5: float("inf"), 2: 10, 1: 8}
    assert lineage([]) == {}


def test_lost_and_doubled_groups_show(tmp_path: Path):
    write(
        tmp_path / "metrics/learner.jsonl", start(1, 0, None), start(2, 2, 1), {"kind": "step", "step": 3, "epoch": 2}
    )
    groups = [["fleet-0", "a"]], [["fleet-0", "b"]], [["fleet-0", "c"]], [["fleet-0", "a"], ["local", "w"]]
    write(
        tmp_path / "metrics/trained.jsonl",
        {"step": 1, "epoch": 1, "groups": groups[0]},
        {"step": 2, "epoch": 1, "groups": groups[1]},
        {"step": 3, "epoch": 1, "groups": groups[2]},  # on the lost timeline
        {"step": 3, "epoch": 2, "groups": groups[3]},  # a is in the weights twice, c not at all
        tail='{"step": 4, "epo',
    )
    write(tmp_path / "metrics/expired.jsonl", {"step": 3, "outcome": "expired", "groups": [["fleet-0", "e"]]})
    write(
        tmp_path / "producers/producer-0.jsonl",
        *[ack("a"), ack("b"), ack("c"), ack("e", "DUPLICATE"), ack("r", "REJECTED", "bad")],
        {"kind": "made", "id": "unacked", "version": 0},
    )
    write(tmp_path / "state/worker.acked.jsonl", {"group_id": "w"})
    account = Account.read(tmp_path)
    assert account.lost == [("fleet-0", "c")]
    assert account.given_up == {("fleet-0", "c")}
    assert account.doubled == [("fleet-0", "a")]
    assert account.trained == Counter({("fleet-0", "a"): 2, ("fleet-0", "b"): 1, ("local", "w"): 1})
    assert (account.retrained, account.resent, account.rejected) == (1, 1, Counter(bad=1))


def test_a_pause_is_time_in_which_something_was_owed_and_the_producer_lived(tmp_path: Path):
    rows = [
        {"time": 0, "kind": "start"},
        {"time": 50, "kind": "made"},  # nothing was owed before: the 50 s are its own
        {"time": 51, "kind": "made"},
        {"time": 53, "kind": "ack"},  # 3 s after it began to wait
        {"time": 57, "kind": "ack"},  # 4 s without an answer, with one owed
        {"time": 90, "kind": "ask"},
        {"time": 92, "kind": "lease"},
        {"time": 93, "kind": "made"},
        {"time": 99, "kind": "start"},  # it was dead meanwhile
        {"time": 102, "kind": "ack"},
    ]
    write(tmp_path / "producers/producer-3.jsonl", *rows)
    assert longest_pauses(tmp_path) == {"producer-3": 4}


def test_a_schedule_is_its_seeds_and_has_the_kills_it_was_asked_for():
    one = schedule(100, 7, list(KILLS))
    assert one == schedule(100, 7, list(KILLS)) != schedule(100, 8, list(KILLS))
    kills = Counter(fault.target for fault in one if fault.kind == "kill")
    assert kills == KILLS
    assert len(one) == 100 + 20
    for count in (1, 8, 23):
        for targets in (list(KILLS), ["gateway", "learner"]):
            few = Counter(fault.target for fault in schedule(count, 0, targets) if fault.kind == "kill")
            assert few.total() == count
            assert set(few) <= set(targets)
            assert count < len(targets) or set(few) == set(targets)
