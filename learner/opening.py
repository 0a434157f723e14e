"""How a learner comes to a run: it takes over from the one before it, finds the checkpoint to go on from, settles accounts.

The order is the fence of learner.claim; nothing here may be moved past anything else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from learner.catalog import versions_on_disk
from learner.checkpoint import set_aside
from learner.claim import Claim, newest_epoch
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.metrics import MetricsWriter
from learner.queue import LearnerQueue
from learner.resume import Resume, State, latest, sealed_epoch
from learner.rollback import Order, carry_out, cost, read_order, reported


@dataclass(frozen=True)
class Opening:
    """A learner that has taken over and has not begun.

    Attributes:
        resume: the checkpoint to go on from, the same on every rank; None for a fresh run.
        queue: rank 0 only.
        checkpoints, versions: claims on the directories.
        rollback: the order that ``resume`` follows, the same on every rank; None where there is none.
    """

    config: LearnerConfig
    ranks: Ranks
    metrics: MetricsWriter | None
    queue: LearnerQueue | None
    checkpoints: Claim
    versions: Claim
    resume: Resume | None
    rollback: Order | None

    @classmethod
    def start(cls, config: LearnerConfig, ranks: Ranks, metrics: MetricsWriter | None) -> Opening:
        """Takes over: from here on no older learner can change anything. Collective.

        Raises:
            QueueError: the queue cannot be opened (rank 0).
            SupersededError: a newer learner has been faster (rank 0).
            CheckpointError: there are checkpoints and none can be used (rank 0).
        """
        taken = ranks.attended(lambda: _take_over(config, metrics))  # every byte of a checkpoint is read: minutes
        queue, found, order = taken or (None, None, None)
        (epoch,) = ranks.agree([queue.epoch if queue else 0])
        told, rollback = _from_bytes(ranks.broadcast_bytes(_to_bytes(found, order)))
        checkpoints, versions = Claim(config.checkpoint.dir, epoch), Claim(config.publish.dir, epoch)
        return cls(config, ranks, metrics, queue, checkpoints, versions, found or told, rollback)

    def begin(self) -> int:
        """Settles accounts with the queue. Collective. Returns the number of the first version to publish.

        Raises:
            FencedError: a newer learner has started (rank 0).
        """
        if self.queue is None or self.metrics is None:
            return self.ranks.agree([0])[0]
        step = self.resume.step if self.resume else 0
        recommitted = self.queue.begin(
            step, self.resume.state.trained + self.resume.state.recent if self.resume else []
        )
        origin = {"resumed_step": step, "resumed_epoch": self.resume.state.epoch if self.resume else None}
        self.metrics.event("start", epoch=self.queue.epoch, **origin, recommitted=recommitted)
        if self.rollback is not None and not self.rollback.reported:
            self._say_cost(self.queue, self.metrics, self.rollback)
        if self.resume is not None and self.resume.damaged:
            self._own_up(self.queue, self.metrics, self.resume)
            set_aside(self.checkpoints, self.resume, self.config.checkpoint.keep)
        known = [self.queue.next_version() - 1, *versions_on_disk(self.config.publish.dir)]
        if self.resume is not None:
            known.append(self.resume.state.extra.get("version", -1))
        return self.ranks.agree([max(known) + 1])[0]

    def _own_up(self, queue: LearnerQueue, metrics: MetricsWriter, resume: Resume) -> None:
        """Says which groups the ledger calls trained and these weights have never seen."""
        refs, complete = resume.lost()
        count = queue.finished(refs)  # the others were never committed: they are trained again
        newest = max(damaged.step for damaged in resume.damaged)
        log = structlog.get_logger()
        for damaged in resume.damaged:
            log.error("checkpoint damaged and set aside", checkpoint=damaged.name, reason=damaged.reason)
        log.error(
            f"{'' if complete else 'at least '}{count} groups trained between step {resume.step} and {newest} are not in "
            "these weights, though the ledger counts them as trained",
            resumed=str(resume.directory),
        )
        names = [damaged.name for damaged in resume.damaged]
        metrics.event(
            "damaged", checkpoints=names, resumed_step=resume.step, newest_step=newest, lost=count, complete=complete
        )

    def _say_cost(self, queue: LearnerQueue, metrics: MetricsWriter, order: Order) -> None:
        """Says what a rollback gave up, first of all which groups the ledger calls trained."""
        given_up = cost(self.config.checkpoint.dir, order, self.config.groups_per_step)
        lost = queue.finished(given_up.trained)  # the others were never committed: they are trained again
        structlog.get_logger().error(
            f"rolled back to {order.checkpoint}: {order.reason}; {'' if given_up.complete else 'at least '}{lost} groups "
            "trained since are not in these weights, though the ledger counts them as trained",
            rollback=order.number, step=order.step, set_aside=given_up.aside,
        )  # fmt: skip
        metrics.event(
            "rollback", number=order.number, rule=order.rule, reason=order.reason, step=order.step,
            checkpoint=order.checkpoint, factor=order.factor, set_aside=given_up.aside, newest_step=given_up.newest_step,
            lost=lost, complete=given_up.complete,
        )  # fmt: skip
        reported(self.checkpoints, order)


def _take_over(
    config: LearnerConfig, metrics: MetricsWriter | None
) -> tuple[LearnerQueue, Resume | None, Order | None]:
    assert metrics is not None
    roots = (config.checkpoint.dir, config.publish.dir)
    on_disk = max(*map(newest_epoch, roots), sealed_epoch(config.checkpoint.dir))
    queue = LearnerQueue.open(config.queue, config.weights, above=on_disk, audit=metrics.untrained)
    for root in roots:
        Claim(root, queue.epoch).take()
    order = read_order(config.checkpoint.dir)
    if order is not None:
        carry_out(Claim(config.checkpoint.dir, queue.epoch), order)
    found = latest(config.checkpoint.dir)
    follows = order is not None and found is not None and order.commands(found.state.epoch)
    return queue, found, order if follows else None


def _to_bytes(found: Resume | None, order: Order | None) -> bytes:
    """What the other ranks need of it."""
    if found is None:
        return b""
    needed = {
        "directory": str(found.directory),
        "state": asdict(found.state) | {"trained": [], "recent": [], "files": {}},
        "order": asdict(order) if order is not None else None,
    }
    return json.dumps(needed).encode()


def _from_bytes(data: bytes) -> tuple[Resume | None, Order | None]:
    if not data:
        return None, None
    found = json.loads(data)
    order = Order(**found["order"]) if found["order"] is not None else None
    return Resume(Path(found["directory"]), State(**found["state"])), order
