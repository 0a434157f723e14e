"""Files that the metrics writer appends to, which the ledger of a whole run is checked against."""

import json
from pathlib import Path

from learner.queue import GroupRef
from learner.telemetry.metrics_writer import MetricsWriter


def test_half_a_line_of_a_killed_learner_swallows_no_row_of_the_next(tmp_path: Path):
    for name in ("learner", "trained", "expired"):
        (tmp_path / f"{name}.jsonl").write_text('{"step": 1}\n{"step": 2, "gro')
    writer = MetricsWriter(tmp_path, [], "run")
    ref = GroupRef("f", "a", "1-0")
    writer.event("start", epoch=2)
    writer.trained(2, 2, [ref])
    writer.untrained("expired", 2, [ref])
    writer.close()
    MetricsWriter(tmp_path, [], "run").close()  # whole lines are left as they are
    for name, last in (
        ("trained", {"step": 2, "epoch": 2, "groups": [["f", "a"]]}),
        ("expired", {"step": 2, "outcome": "expired", "groups": [["f", "a"]]}),
    ):
        lines = (tmp_path / f"{name}.jsonl").read_text().split("\n")
        assert lines[:2] == ['{"step": 1}', '{"step": 2, "gro']
        assert [json.loads(line) for line in lines[2:-1]] == [last]
    assert json.loads((tmp_path / "learner.jsonl").read_text().splitlines()[-1])["epoch"] == 2
