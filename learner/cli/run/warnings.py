"""What the summary of a run warns of: work that came to nothing though no process failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from learner.cli.run.run_history import Row, mean
from leeway.v1 import rollout_pb2


def warnings(rows: Sequence[Row], ledgers: Sequence[rollout_pb2.Ledger], run: Path) -> list[str]:
    """Returns a line for each way in which a run has come to nothing; none for a run that learned.

    Args:
        rows: the run's step rows.
        ledgers: each fleet's ledger.
        run: the run's directory, for the commands that the lines name.
    """
    return [*_not_learned(list(rows)), *(line for ledger in ledgers for line in _not_trained(ledger, run))]


def _not_learned(rows: list[Row]) -> Iterator[str]:
    with_contrast = [row for row in rows if row["trained_tokens"]]
    if rows and mean(rows, "reward") is None:
        yield (
            f"nothing was learned: no response of the {len(rows)} steps was scored, and the weights did not change; `leeway "
            "ledger` has the reasons; look at rollout.task and at the workers' logs"
        )
    elif rows and not with_contrast:
        yield (
            f"nothing was learned: in none of the {len(rows)} steps did a group's responses differ in reward (their mean: "
            f"{mean(rows, 'reward') or 0.0:.3g}), and the weights did not change; look at the rewards, at rollout.task (too "
            "hard, too easy, or its scoring) and at rollout.sampling.temperature"
        )
    elif rows and not any(row.get("finite", True) for row in with_contrast):
        yield (
            f"nothing was learned: the loss or its gradient was not finite in any of the {len(with_contrast)} steps that had "
            "something to learn from, and the weights did not change; look at learner.optimizer and at the rewards"
        )


def _not_trained(ledger: rollout_pb2.Ledger, run: Path) -> Iterator[str]:
    if ledger.rejected and not ledger.accepted:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(ledger.rejected_by_reason.items()))
        yield (
            f"every group of fleet {ledger.fleet} was rejected ({ledger.rejected}: {reasons}); see why with: "
            f"leeway quarantine list {run} --fleet {ledger.fleet}"
        )
    if ledger.quarantined:
        yield (
            f"{ledger.quarantined} groups of fleet {ledger.fleet} were refused because their losses or gradients were not "
            f"finite; see them with: leeway quarantine list {run} --fleet {ledger.fleet}"
        )
    if ledger.expired and ledger.expired == ledger.accepted:
        yield (
            f"every group of fleet {ledger.fleet} expired before it was trained ({ledger.expired}); look at "
            "learner.max_staleness, and at how soon its engines load new versions"
        )
