"""`python -m tests.deploy.restore_drill`: loses parts of a real run, restores it as the runbook says, counts what is lost.

The whole machine is lost; then Redis' data; then a Redis comes back that is older than the checkpoints; then the newest
checkpoint is gone. After each the run has to train again, and its ledger has to balance.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from learner.backup.manifest import newest_backup, read_manifest
from learner.backup.store import BackupStore
from learner.checkpoint.store import completed
from learner.cli.run.queue import queue_of
from learner.queue import EmbeddedRedis, QueueError, imbalances
from learner.queue.acceptance import HaltedQueue
from learner.queue.witness import FORGETTABLE_S
from leeway.v1 import rollout_pb2 as pb
from tests.deploy.drilled_run import DrilledRun

_OLDER_S = 2 * FORGETTABLE_S  # how much older the Redis is that comes back
Say = Callable[[str], None]


def whole_machine(drilled: DrilledRun, kept: Path, say: Say) -> None:
    """Backs the run up, lets it go on, kills it and deletes its directory; restores it elsewhere."""
    say(f"  leeway backup RUN URI: {drilled.command('backup', str(drilled.run.root), str(kept)).strip()}")
    drilled.trains(6)
    drilled.kill()
    before, step = drilled.ledgers(), drilled.rows("step")[-1]["step"]
    shutil.rmtree(drilled.run.root)
    directory = drilled.run.root.with_name("elsewhere")
    say(f"  leeway restore URI DIR: {drilled.command('restore', str(kept), str(directory)).splitlines()[0]}")
    drilled.resume(directory)
    drilled.trains(4)
    manifest = read_manifest(newest_backup(BackupStore(str(kept))))
    lost = _sum(before, "accepted") - sum(manifest.seen.accepted.values())
    assert drilled.rows("start")[-1]["resumed_step"] == manifest.step
    say(f"  lost: steps {manifest.step + 1} to {step}, and {lost} groups that were accepted after the backup")


def empty_redis(drilled: DrilledRun, say: Say) -> None:
    """Stops the run and deletes Redis' data beside the checkpoints."""
    drilled.command("stop", str(drilled.run.root))
    before = drilled.ledgers()
    shutil.rmtree(drilled.run.redis / "appendonlydir")
    _decide(drilled, before, say)


def older_redis(drilled: DrilledRun, copy: Path, say: Say) -> None:
    """Puts a copy of Redis' data beside checkpoints that are newer; a backup of the same age is refused too."""
    shutil.copytree(drilled.run.redis / "appendonlydir", copy / "older")
    drilled.command("backup", str(drilled.run.root), str(copy / "backup"))
    end = time.monotonic() + _OLDER_S
    drilled.until(lambda: time.monotonic() > end, "time")
    drilled.trains(6)
    drilled.command("stop", str(drilled.run.root))
    before = drilled.ledgers()
    drilled.command("restore", str(copy / "backup"), str(drilled.run.root), "--queue-only", status=2)
    say("  leeway restore URI RUN --queue-only: refused, the backup's queue is older than the newest checkpoint")
    shutil.rmtree(drilled.run.redis / "appendonlydir")
    shutil.copytree(copy / "older", drilled.run.redis / "appendonlydir")
    _decide(drilled, before, say)


def newest_checkpoint(drilled: DrilledRun, say: Say) -> None:
    """Kills the run and deletes the newest checkpoint."""
    drilled.trains(9)
    drilled.kill()
    before = _sum(drilled.ledgers(), "given_up")
    newest = completed(drilled.run.checkpoints)[-1]
    shutil.rmtree(newest)
    drilled.resume()
    drilled.trains(2)
    lost = _sum(drilled.ledgers(), "given_up") - before
    say(f"  {newest.name} deleted; leeway up RUN --resume: from step {drilled.rows('start')[-1]['resumed_step']}")
    say(f"  lost: {lost} trained groups, which the ledger counts as given up")


def _decide(drilled: DrilledRun, before: list[pb.Ledger], say: Say) -> None:
    """Lets the run go on until it is halted, and decides as the runbook says."""
    drilled.resume()
    drilled.until(lambda: _halted(drilled), "halt of the queue")
    for line in drilled.command("queue", "accept", str(drilled.run.root), "--yes").splitlines()[-4:-1]:
        say(f"  leeway queue accept RUN: {line}")
    drilled.trains(4)
    lost = _sum(drilled.ledgers(), "vanished") - _sum(before, "vanished")
    waited = _sum(before, "queued") + _sum(before, "in_flight")
    say(f"  when Redis was lost {waited} groups waited; the ledger counts {lost} as vanished")


def _halted(drilled: DrilledRun) -> bool:
    if EmbeddedRedis.url_of(drilled.run.redis) is None:  # queue_of would start one, before the run does
        return False
    with contextlib.suppress(QueueError), queue_of(drilled.run) as config, HaltedQueue(config) as queue:
        return queue.halt() is not None
    return False


def _sum(ledgers: list[pb.Ledger], counter: str) -> int:
    return sum(getattr(ledger, counter) for ledger in ledgers)


def drill(root: Path, say: Say) -> bool:
    """Runs all four; returns whether every ledger balanced after each."""
    balanced = True
    drilled = DrilledRun(root)
    try:
        drilled.trains(10)
        for name, lose in (
            ("the whole machine is lost", lambda: whole_machine(drilled, root / "kept", say)),
            ("Redis is empty", lambda: empty_redis(drilled, say)),
            ("Redis is older than the checkpoints", lambda: older_redis(drilled, root, say)),
            ("the newest checkpoint is lost", lambda: newest_checkpoint(drilled, say)),
        ):
            say(name)
            lose()
            wrong = [line for ledger in drilled.ledgers() for line in imbalances(ledger)]
            say(f"  ledger: {'; '.join(wrong) or 'balanced'}; the run trains")
            balanced &= not wrong
    finally:
        drilled.close()
    return balanced


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.deploy.restore_drill", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(0 if drill(Path(directory), lambda line: print(line, flush=True)) else 1)
