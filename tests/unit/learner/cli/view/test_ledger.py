"""The ledger as people see it."""

from __future__ import annotations

from rich.console import Console

from learner.cli.view.ledger import ledger_tables
from leeway.v1 import rollout_pb2 as pb


def test_what_moved_no_weight_and_why_nobody_judged_is_shown():
    one = pb.Ledger(
        fleet="tokyo", received=9, accepted=9, trained=9, without_contrast=3, unscored=2,
        unscored_responses_by_reason={"reward_timeout": 1234, "crash": 5},
    )  # fmt: skip
    console = Console(width=200)
    with console.capture() as captured:
        console.print(ledger_tables([one, pb.Ledger(fleet="paris")]))
    text = captured.get()
    head, row = next(
        (head.split(), row.split()) for head, row in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if "contrast" in head
    )  # fmt: skip
    assert head[-4:] == ["without", "contrast", "unscored", "vanished"]
    assert row[-3:] == ["3", "2", "0"]
    assert "unscored responses from tokyo: 1,234 reward_timeout" in text
    assert "unscored responses from tokyo: 5 crash" in text
    assert "responses from paris" not in text
