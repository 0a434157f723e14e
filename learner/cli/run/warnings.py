"""What the summary of a run warns of: work that came to little or nothing though no process failed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from learner.cli.run.evaluations import Evaluation
from learner.cli.run.governed import FAR_BELOW, far_below
from learner.cli.run.run_history import Row, mean
from leeway.v1 import rollout_pb2

# Where a tenth of the responses is cut off, the reward says as much of the length limit as of the answers.
TRUNCATED = 0.1
# A twentieth of the groups is what a restart of an engine may cost; more means that generation does not keep up.
EXPIRED = 0.05
# An unscored response is work without any use; judges that time out now and then stay below one in fifty.
UNSCORED = 0.02
# A step without contrast costs as much generation as any other; one in ten is no accident of a few prompts.
IDLE = 0.1
# The reward has moved when the means of its first 10 and last 20 steps are three standard errors apart; in a run in which
# it does not move, fewer than one in 300 would show that by chance.
_FIRST, _LAST, _ERRORS = 10, 20, 3.0


@dataclass(frozen=True)
class Evidence:
    """What warnings are derived from.

    Attributes:
        rows: the run's step rows, ascending.
        ledgers: each fleet's ledger.
        run: the run's directory, for the commands that the lines name.
        evaluations: what was evaluated.
        evaluates: whether the run was to be evaluated.
        last_version: the version that must have been evaluated at the end; None: no certain one.
    """

    rows: Sequence[Row]
    ledgers: Sequence[rollout_pb2.Ledger]
    run: Path
    evaluations: Sequence[Evaluation] = field(default=())
    evaluates: bool = False
    last_version: int | None = None


def warnings(evidence: Evidence) -> list[str]:
    """Returns a line for each way in which a run has come to nothing or wastes much of its work; the gravest first."""
    rows = list(evidence.rows)
    nothing = list(_not_learned(rows))
    return [
        *nothing,
        *([] if nothing else _idle(rows)),
        *(line for ledger in evidence.ledgers for line in _not_trained(ledger, evidence.run)),
        *_truncated(rows),
        *(line for ledger in evidence.ledgers for line in _wasted(ledger)),
        *_unscored(rows, evidence.ledgers),
        *_evaluations(evidence),
        *_far_below_ceiling(rows),
        *([] if nothing else _reward(rows)),
    ]


def _not_learned(rows: list[Row]) -> Iterator[str]:
    with_contrast = [row for row in rows if row["trained_tokens"]]
    if rows and mean(rows, "reward") is None:
        yield (
            f"nothing was learned: no response of the {len(rows)} steps was scored, and the weights did not change; `leeway "
            "ledger` has the reasons; look at rollout.task and at the workers' logs"
        )
    elif rows and not with_contrast:
        yield (
            f"nothing was learned: no step was informative: in none of the {len(rows)} steps did a group's responses differ "
            f"in reward (their mean: {mean(rows, 'reward') or 0.0:.3g}), and the weights did not change; look at the "
            "rewards, at rollout.task (too hard, too easy, or its scoring) and at rollout.sampling.temperature"
        )
    elif rows and not any(row.get("finite", True) for row in with_contrast):
        yield (
            f"nothing was learned: the loss or its gradient was not finite in any of the {len(with_contrast)} steps that had "
            "something to learn from, and the weights did not change; look at learner.optimizer and at the rewards"
        )


def _idle(rows: Sequence[Row]) -> Iterator[str]:
    idle = sum(not row["trained_tokens"] for row in rows)
    if rows and idle >= IDLE * len(rows):
        yield (
            f"{idle} of {len(rows)} steps had nothing to learn from: in none of their groups did responses differ in reward; "
            "look at rollout.task (too hard, too easy, or its scoring), task.rest and rollout.sampling.temperature"
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


def truncated_share(rows: Sequence[Row]) -> float | None:
    """Share of the trained responses that the length limit cut off; None where no step counted them."""
    counted = [row for row in rows if row.get("truncated") is not None]
    responses = sum(row["responses"] for row in counted)
    return sum(row["truncated"] * row["responses"] for row in counted) / responses if responses else None


def _truncated(rows: Sequence[Row]) -> Iterator[str]:
    share = truncated_share(rows)
    if share is not None and share >= TRUNCATED:
        yield (
            f"{share:.0%} of the responses were truncated, cut off by the length limit; raise "
            "rollout.sampling.max_new_tokens, or reward shorter answers"
        )


def _wasted(ledger: rollout_pb2.Ledger) -> Iterator[str]:
    if ledger.accepted and EXPIRED * ledger.accepted <= ledger.expired < ledger.accepted:
        yield (
            f"{ledger.expired / ledger.accepted:.0%} of the groups of fleet {ledger.fleet} expired before they were trained "
            f"({ledger.expired:,} of {ledger.accepted:,}); look at learner.max_staleness and learner.expire_after, and at "
            "how soon its engines load new versions"
        )


def _unscored(rows: Sequence[Row], ledgers: Sequence[rollout_pb2.Ledger]) -> Iterator[str]:
    counted = [row for row in rows if row.get("unscored") is not None]
    responses = sum(row["responses"] for row in counted)
    share = sum(row["unscored"] * row["responses"] for row in counted) / responses if responses else 0.0
    if not UNSCORED <= share < 1.0:  # 1: nothing was learned, and the line of that says so
        return
    reasons: dict[str, int] = {}
    for ledger in ledgers:
        for reason, count in ledger.unscored_responses_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + count
    top = max(reasons.items(), key=lambda item: (item[1], item[0]), default=None)
    mostly = f", mostly for {top[0]} ({top[1]:,} of {sum(reasons.values()):,})" if top else ""
    yield f"{share:.0%} of the responses are unscored{mostly}; look at rollout.task and at the workers' logs"


def _evaluations(evidence: Evidence) -> Iterator[str]:
    if evidence.evaluates and evidence.rows and not evidence.evaluations:
        yield "no evaluation was completed though the run has [eval]; look at logs/evaluator.log"
    newest = max((one.version for one in evidence.evaluations), default=None)
    if newest is not None and evidence.last_version is not None and newest < evidence.last_version:
        yield (
            f"the last version, {evidence.last_version}, was not evaluated: the newest evaluation is of version {newest}; "
            "look at logs/evaluator.log, and at eval.final_timeout_s"
        )
    for one in evidence.evaluations[-1:]:
        responses = one.prompts * one.samples
        if responses and one.unscored >= UNSCORED * responses:
            yield (
                f"{one.unscored / responses:.0%} of the responses in the evaluation {one.name} ({one.sampling}) of version "
                f"{one.version} are unscored: its numbers cover the others only"
            )


def _far_below_ceiling(rows: Sequence[Row]) -> Iterator[str]:
    if found := far_below(rows):
        last = found[-1]
        rate, share = last["lr"], last["lr_ceiling_share"]
        yield (
            f"the learning rate stayed below {FAR_BELOW:.0%} of its ceiling for the last {len(found)} steps ({rate:.1e} of "
            f"{rate / share:.1e} in the last one): learner.optimizer.lr is far too high a ceiling, which is harmless if the "
            "reward rises, or what learner.lr_control keeps to was not made for this model; see docs/objectives.md"
        )


def _reward(rows: Sequence[Row]) -> Iterator[str]:
    rewards = [row["reward"] for row in rows if row.get("reward") is not None]
    if len(rewards) < _FIRST + _LAST:
        return
    first, last = rewards[:_FIRST], rewards[-_LAST:]
    before, after = statistics.fmean(first), statistics.fmean(last)
    error = (statistics.variance(first) / len(first) + statistics.variance(last) / len(last)) ** 0.5
    moved = f"{before:.3g} in the first {_FIRST} steps, {after:.3g} in the last {_LAST}"
    if after < before - _ERRORS * error:
        yield f"the reward fell: {moved}; look at learner.optimizer, at the staleness and at the length of responses"
    elif after <= before + _ERRORS * error:
        yield (
            f"the reward never moved: {moved}, which is within its noise; look at the share of informative groups, at "
            "rollout.task and at learner.optimizer.lr"
        )
