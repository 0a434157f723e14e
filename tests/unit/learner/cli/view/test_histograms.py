"""Distributions of groups, drawn in one line each."""

from learner.cli.view.histograms import bars, histogram_table
from leeway.v1 import rollout_pb2 as pb


def test_bars_are_relative_and_nothing_that_was_counted_is_blank():
    assert bars([0, 1, 4, 8]) == " ▁▄█"
    assert bars([1, 1_000_000]) == "▁█"
    assert bars([0, 0]) == "  "
    assert bars([]) == ""


def test_outcomes_of_a_measure_share_their_axis():
    def bucket(outcome: str, lower: float, count: int) -> pb.Bucket:
        return pb.Bucket(measure=pb.MEASURE_LENGTH, outcome=outcome, lower=lower, upper=2 * lower, count=count)

    ledger = pb.Ledger(
        fleet="f", histogram=[bucket("trained", 4, 10), bucket("trained", 8, 5), bucket("expired", 64, 3)]
    )
    table = histogram_table([ledger])
    columns = [list(column.cells) for column in table.columns]
    assert columns == [
        ["f", "f"],
        ["tokens per response"] * 2,
        ["trained", "expired"],
        ["15", "3"],
        ["4", "4"],
        ["█▄ ", "  █"],
        ["128", "128"],
    ]
