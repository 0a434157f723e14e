"""Start of a learner: it takes over from the one before it, finds the checkpoint to resume from, and commits its groups.

The order of these steps is what keeps an older learner from changing anything, as learner.storage.fence proves: none of them
may be moved past another.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from learner.checkpoint.rollback import RollbackRequest, apply_rollback, mark_reported, read_request, set_aside_by
from learner.checkpoint.saver import set_aside
from learner.checkpoint.store import CheckpointState, ResumePoint, completed_epoch, epoch_and_step, latest
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.queue import GroupRef, LearnerQueue
from learner.storage.fence import DirectoryFence, newest_epoch
from learner.telemetry.metrics_writer import MetricsWriter
from runtime.version_format.names import versions_on_disk


@dataclass(frozen=True)
class Takeover:
    """State of a learner that has taken over a run and has not begun to train.

    Attributes:
        metrics: where events are written; on rank 0 only, None elsewhere.
        queue: the opened queue; on rank 0 only, None elsewhere.
        checkpoints: the right to change the checkpoint directory.
        versions: the right to change the publication directory.
        resume: the checkpoint to resume from, the same on every rank; None for a fresh run.
        rollback: the rollback request that ``resume`` follows, the same on every rank; None if there is none.
    """

    config: LearnerConfig
    ranks: Ranks
    metrics: MetricsWriter | None
    queue: LearnerQueue | None
    checkpoints: DirectoryFence
    versions: DirectoryFence
    resume: ResumePoint | None
    rollback: RollbackRequest | None

    @classmethod
    def start(cls, config: LearnerConfig, ranks: Ranks, metrics: MetricsWriter | None) -> Takeover:
        """Takes over the run: from then on no older learner can change anything. Collective.

        Raises:
            QueueError: the queue cannot be opened (rank 0).
            SupersededError: a newer learner has already taken over (rank 0).
            CheckpointError: there are checkpoints and none of them can be used (rank 0).
        """
        taken_over = ranks.run_on_rank_zero(lambda: _take_over(config, metrics))  # it reads a whole checkpoint: minutes
        queue, found, request = taken_over or (None, None, None)
        (epoch,) = ranks.agree([queue.epoch if queue else 0])
        received, rollback = _from_bytes(ranks.broadcast_bytes(_to_bytes(found, request)))
        checkpoints, versions = DirectoryFence(config.checkpoint.dir, epoch), DirectoryFence(config.publish.dir, epoch)
        return cls(config, ranks, metrics, queue, checkpoints, versions, found or received, rollback)

    def begin(self) -> int:
        """Commits the groups that the checkpoint contains, and logs what damage or a rollback has cost. Collective.

        Returns:
            The number of the first version to publish.

        Raises:
            HaltedError: the queue is older than the checkpoint, or another one (rank 0).
            FencedError: a newer learner has started (rank 0).
        """
        if self.queue is None or self.metrics is None:
            return self.ranks.agree([0])[0]
        step = self.resume.step if self.resume else 0
        recommitted = self.queue.begin(step, *self._recorded())
        origin = {"resumed_step": step, "resumed_epoch": self.resume.state.epoch if self.resume else None}
        self.metrics.event("start", epoch=self.queue.epoch, **origin, recommitted=recommitted)
        self._report_given_up(self.queue, self.metrics)
        if self.resume is not None and self.resume.damaged:
            set_aside(self.checkpoints, self.resume, self.config.checkpoint.keep)
        known = [self.queue.next_version() - 1, *versions_on_disk(self.config.publish.dir)]
        if self.resume is not None:
            known.append(self.resume.state.extra.get("version", -1))
        return self.ranks.agree([max(known) + 1])[0]

    def _recorded(self) -> tuple[list[GroupRef], dict[str, Any] | None]:
        """The groups that the checkpoint contains and Redis may not know to be trained, and what it says of the queue."""
        if self.resume is None:
            return [], None
        state = self.resume.state
        return state.trained + state.recent, state.extra.get("witness")

    def _report_given_up(self, queue: LearnerQueue, metrics: MetricsWriter) -> None:
        """Logs how many groups the ledger counts as trained and the weights do not contain, and why, if that is news.

        They were in checkpoints that a rollback set aside, that are damaged, or that somebody removed.
        """
        contained = self.resume.state.contained if self.resume else {}
        lost = queue.give_up(contained, record=False)
        missing = f"{lost} groups trained since are not in these weights, though the ledger counts them as trained"
        log, request = structlog.get_logger(), self.rollback
        for damaged in self.resume.damaged if self.resume else []:
            log.error("checkpoint damaged and set aside", checkpoint=damaged.name, reason=damaged.reason)
        if request is not None and not request.reported:
            aside = set_aside_by(self.config.checkpoint.dir, request)
            log.error(f"rolled back to {request.checkpoint}: {request.reason}; {missing}", set_aside=aside)
            metrics.event("rollback", **_facts(request), set_aside=aside, newest_step=_newest(aside), lost=lost)
            mark_reported(self.checkpoints, request)
        elif self.resume is not None and self.resume.damaged:
            names = [damaged.name for damaged in self.resume.damaged]
            log.error(f"resumed from step {self.resume.step}, before the damage; {missing}", checkpoints=names)
            metrics.event("damaged", checkpoints=names, resumed_step=self.resume.step, lost=lost)
        elif lost > 0:
            log.error(
                f"resumed from step {self.resume.step if self.resume else 0}; {missing}: checkpoints were removed"
            )
            metrics.event("given_up", resumed_step=self.resume.step if self.resume else 0, lost=lost)
        queue.give_up(contained, record=True)


def _facts(request: RollbackRequest) -> dict[str, Any]:
    names = ("number", "rule", "reason", "step", "checkpoint", "factor")
    return {name: getattr(request, name) for name in names}


def _newest(checkpoints: list[str]) -> int | None:
    return max((epoch_and_step(name)[1] for name in checkpoints), default=None)


def _take_over(
    config: LearnerConfig, metrics: MetricsWriter | None
) -> tuple[LearnerQueue, ResumePoint | None, RollbackRequest | None]:
    assert metrics is not None
    roots = (config.checkpoint.dir, config.publish.dir)
    on_disk = max(*map(newest_epoch, roots), completed_epoch(config.checkpoint.dir))
    queue = LearnerQueue.open(config.queue, config.weights, above=on_disk, audit=metrics.untrained)
    for root in roots:
        DirectoryFence(root, queue.epoch).acquire()
    request = read_request(config.checkpoint.dir)
    if request is not None:
        apply_rollback(DirectoryFence(config.checkpoint.dir, queue.epoch), request)
    found = latest(config.checkpoint.dir)
    follows = request is not None and found is not None and request.covers(found.state.epoch)
    return queue, found, request if follows else None


def _to_bytes(found: ResumePoint | None, request: RollbackRequest | None) -> bytes:
    """Serializes what the other ranks need to know of the checkpoint and the request; no bytes for a fresh run."""
    if found is None:
        return b""
    needed = {
        "directory": str(found.directory),
        "state": asdict(found.state) | {"trained": [], "recent": [], "contained": {}, "files": {}},
        "rollback": asdict(request) if request is not None else None,
    }
    return json.dumps(needed).encode()


def _from_bytes(data: bytes) -> tuple[ResumePoint | None, RollbackRequest | None]:
    if not data:
        return None, None
    found = json.loads(data)
    request = RollbackRequest(**found["rollback"]) if found["rollback"] is not None else None
    return ResumePoint(Path(found["directory"]), CheckpointState(**found["state"])), request
