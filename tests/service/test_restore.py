"""Restore drills: what an operator does after a loss, with the commands of deploy/runbook.md, and what it costs, counted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from learner.checkpoint import store
from learner.cli.operate.backup import back_up_run
from learner.cli.run.run_directory import RunDirectory
from learner.queue import Appended, EmbeddedRedis, GatewayQueue, HaltedError, LearnerQueue, QueueError
from learner.queue.change_journal import ChangeJournal
from learner.queue.errors import MovedError
from learner.queue.keys import Keys
from learner.queue.moving import MovingQueue
from leeway.v1 import operator_pb2 as op
from tests.service.backed_up import PlayedRun, leeway
from tests.service.fleet import valid_group
from tests.service.queueing import client, feed, ledger

RUNBOOK = (Path(__file__).parents[2] / "deploy" / "runbook.md").read_text()


@pytest.fixture
async def played(tmp_path: Path) -> AsyncIterator[PlayedRun]:
    """A run with 12 groups: 4 committed, then 3 in a newer checkpoint that are committed too, 5 wait."""
    run = PlayedRun(tmp_path / "run")
    await run.feed([valid_group() for _ in range(12)])
    run.train(4)
    run.commit(run.save())
    run.train(3)
    run.commit(run.save())
    yield run
    run.stop()


def documented(command: str) -> None:
    """Fails if the runbook does not have the command, whose arguments are written in capitals."""
    assert re.sub(r"\s+", " ", command) in re.sub(r"\s+", " ", RUNBOOK), command


def flush(played: PlayedRun) -> None:
    """Deletes all that Redis has of the run."""
    played.learner.guard.begin(None)
    played.learner.close()
    with client(played.config) as raw:
        raw.flushall()


def backed_up(played: PlayedRun, place: Path, *options: str) -> None:
    status, text = leeway("backup", played.run.root, place, *options)
    assert status == 0, text


async def test_an_empty_redis_beside_checkpoints(played: PlayedRun, tmp_path: Path):
    documented("leeway queue accept RUN")
    flush(played)
    await played.feed(
        [valid_group() for _ in range(3)]
    )  # a gateway that has started anew, before the learner has looked
    with pytest.raises(HaltedError, match="has other data under this run's name"):
        played.begin()
    status, text = leeway("queue", "accept", played.run.root, "--yes")
    assert status == 0, text
    assert "7 trained groups were forgotten: counted again" in text
    assert "5 groups are missing at most: counted as vanished" in text
    account = ledger(played.config)
    assert (account.accepted, account.trained, account.queued, account.vanished) == (10, 7, 3, 5)
    played.learner = played.begin()


async def test_an_empty_redis_is_filled_from_a_backup_that_is_no_older_than_the_checkpoint(
    played: PlayedRun, tmp_path: Path
):
    documented("leeway restore URI RUN --queue-only")
    backed_up(played, tmp_path / "kept")
    flush(played)
    with client(played.config) as raw:  # what processes that found nothing leave there
        raw.hset(Keys(played.config.run).clock, "now", 1)
    status, text = leeway("restore", tmp_path / "kept", played.run.root, "--queue-only")
    assert (status, "already served" in text or "running redis" in text) == (2, True), text
    played.server.stop()
    status, text = leeway("restore", tmp_path / "kept", played.run.root, "--queue-only")
    assert status == 0, text
    played.server = played.server.restart()
    account = ledger(played.config)
    assert (account.accepted, account.trained, account.queued, account.vanished) == (12, 7, 5, 0)
    played.learner = played.begin()
    assert len(played.learner.take(99, 2, 99)) == 5
    played.server.stop()
    status, text = leeway("restore", tmp_path / "kept", played.run.root, "--queue-only")
    assert (status, "12 groups were accepted there" in text) == (2, True), text
    both = leeway("restore", tmp_path / "kept", played.run.root, "--queue-only", "--queue-url", "redis://elsewhere")
    assert (both[0], "--queue-url: not with" in both[1]) == (2, True), both[1]
    played.server = played.server.restart()


async def test_an_older_redis_beside_newer_checkpoints(played: PlayedRun, tmp_path: Path):
    """The copy is a minute older than the newest checkpoint, which contains 2 groups more."""
    backed_up(played, tmp_path / "kept")
    older = tmp_path / "older"
    shutil.copytree(played.run.redis / "appendonlydir", older)
    with client(played.config) as raw:
        raw.hincrby(Keys(played.config.run).clock, "now", 60_000)
    await played.feed([valid_group() for _ in range(4)])
    played.train(2)
    played.commit(played.save())
    played.learner.close()
    played.server.stop()
    status, text = leeway("restore", tmp_path / "kept", played.run.root, "--queue-only")
    assert (status, "older than what checkpoint step_00000003_e0001 has seen, by 6" in text) == (2, True), text
    assert "leeway queue accept RUN" in text
    shutil.rmtree(played.run.redis / "appendonlydir")
    shutil.copytree(older, played.run.redis / "appendonlydir")
    played.server = played.server.restart()
    with pytest.raises(HaltedError, match="has an older copy of this run's data"):
        played.begin()
    status, text = leeway("queue", "accept", played.run.root, "--yes")
    assert status == 0, text
    assert "2 groups had come back and are trained already: finished" in text
    assert "4 groups are missing at most: counted as vanished" in text
    account = ledger(played.config)
    assert (account.accepted, account.trained, account.queued, account.vanished) == (12, 9, 3, 4)
    played.learner = played.begin()


async def test_the_newest_checkpoint_is_lost(played: PlayedRun):
    """The run goes on from the one before; the 3 groups that only the newest contained are given up, and counted."""
    documented("leeway up RUN --resume")
    shutil.rmtree(store.completed(played.run.checkpoints)[-1])
    played.learner.close()
    played.learner = played.begin()
    state = store.read_state(store.completed(played.run.checkpoints)[-1])
    assert played.learner.give_up(state.contained, record=True) == 3
    account = ledger(played.config)
    assert (account.trained, account.given_up, account.queued) == (7, 3, 5)


async def test_the_whole_machine_is_lost(played: PlayedRun, tmp_path: Path):
    documented("leeway backup RUN URI")
    documented("leeway restore URI DIR")
    documented("leeway up DIR --resume")
    backed_up(played, tmp_path / "kept")
    await played.feed([valid_group() for _ in range(6)])
    played.train(5)
    played.commit(played.save())
    lost = ledger(played.config)
    played.learner.close()
    played.server.stop()
    shutil.rmtree(played.run.root)
    status, text = leeway("restore", tmp_path / "kept", tmp_path / "elsewhere")
    assert status == 0, text
    assert "step 2, 12 groups accepted, 7 trained, 5 waiting" in text
    again = RunDirectory.existing(tmp_path / "elsewhere")
    played.server = EmbeddedRedis.start(again.redis)
    config = played.config.model_copy(update={"url": played.server.url})
    account = ledger(config)
    assert (lost.accepted - account.accepted, lost.trained - account.trained) == (6, 5)
    state = store.read_state(store.completed(again.checkpoints)[-1])
    learner = played.learner = LearnerQueue.open(config)
    learner.begin(state.step, state.trained + state.recent, state.extra["witness"])
    assert learner.give_up(state.contained, record=True) == 0
    assert len(learner.take(99, 2, 99)) == 5


async def test_a_run_that_has_moved_goes_on_there_and_not_here(played: PlayedRun, tmp_path: Path):
    documented("leeway backup RUN URI --final")
    played.learner.close()
    with played.run.lock():
        status, text = leeway("backup", played.run.root, tmp_path / "kept", "--final")
        assert (status, "the run is in progress" in text) == (2, True), text
    before = ledger(played.config)
    (tmp_path / "file").touch()
    status, text = leeway("backup", played.run.root, tmp_path / "file" / "kept", "--final")
    assert status == 2, text
    assert leeway("queue", "status", played.run.root)[1] == "the queue is not halted\n"  # a failure leaves it as it was

    status, text = leeway("backup", played.run.root, tmp_path / "kept", "--final")

    assert (status, "the run has moved, and does not go on here" in text) == (0, True), text
    with pytest.raises(
        MovedError, match=r"has moved to file:///.*/kept/backup-.* nothing is accepted or trained here"
    ) as no:
        played.begin()
    assert no.value.exit_status == 2, "a supervisor would start it again"
    late = GatewayQueue(played.config, quarantine_groups=10)
    await late.check()
    assert await feed(late, [valid_group()]) == [Appended.HALTED]
    await late.close()
    status, text = leeway("backup", played.run.root, tmp_path / "other")
    assert (status, "not backed up: run" in text) == (2, True), text

    status, text = leeway("restore", tmp_path / "kept", tmp_path / "there")
    assert status == 0, text
    there = RunDirectory.existing(tmp_path / "there")
    server = EmbeddedRedis.start(there.redis)
    config = played.config.model_copy(update={"url": server.url})
    try:
        account = ledger(config)
        assert (account.accepted, account.trained, account.queued) == (before.accepted, before.trained, 5)
        state = store.read_state(store.completed(there.checkpoints)[-1])
        learner = LearnerQueue.open(config)
        learner.begin(state.step, state.trained + state.recent, state.extra["witness"])
        assert len(learner.take(99, 2, 99)) == 5
        learner.close()
    finally:
        server.stop()


async def test_a_move_is_begun_again_or_taken_back(played: PlayedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    played.learner.close()

    def killed(self: MovingQueue) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as process:
        process.setattr(MovingQueue, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            back_up_run(played.run, str(tmp_path / "kept"), None, print, final=True)
    with pytest.raises(MovedError, match=r"is being moved to .*begin again: leeway backup RUN URI --final"):
        played.begin()
    backed_up(played, tmp_path / "again", "--final")
    backed_up(played, tmp_path / "once more", "--final")
    (tmp_path / "file").touch()
    assert leeway("backup", played.run.root, tmp_path / "file" / "kept", "--final")[0] == 2
    moved = leeway("queue", "status", played.run.root)[1]
    assert re.search(r"has moved to \S*/once%20more/", moved), moved  # a failure leaves it as it was
    with MovingQueue(played.config) as queue:
        queue.begin("file:///taken-back")
        status, text = leeway("queue", "accept", played.run.root, "--yes")
        assert status == 0, text
        with pytest.raises(QueueError, match=r"taken back or begun again.* do not restore file:///taken-back"):
            queue.complete()
        queue.begin("file:///there")
        queue.complete()
    documented("leeway queue accept /etc/leeway/learner.toml --set queue.url=URL --set queue.run=RUN")
    settings = {"model": "m", "steps": 1, "queue": {"url": "redis://elsewhere", "run": "none"}}
    settings |= {"checkpoint": {"dir": str(played.run.checkpoints)}, "metrics_dir": str(played.run.metrics)}
    (tmp_path / "learner.json").write_text(json.dumps(settings | {"publish": {"dir": str(played.run.weights)}}))
    queue_set = ["--set", f"queue.url={played.config.url}", "--set", f"queue.run={played.config.run}"]
    assert "has moved to file:///there" in leeway("queue", "status", tmp_path / "learner.json", *queue_set)[1]
    assert leeway("queue", "status", played.run.root, *queue_set)[0] == 2
    status, text = leeway("queue", "accept", tmp_path / "learner.json", *queue_set, "--yes")
    assert status == 0, text
    assert "the newest checkpoint's weights contain 7 groups" in text
    assert "two learners would train the same groups" in text
    assert "0 groups are missing at most" in text
    account = ledger(played.config)
    assert (account.accepted, account.trained, account.queued, account.vanished) == (12, 7, 5, 0)
    played.learner = played.begin()
    assert len(played.learner.take(99, 2, 99)) == 5


async def test_the_request_of_a_backup_is_not_in_what_is_restored_from_it(played: PlayedRun, tmp_path: Path):
    """The learner makes it while its own change waits; the next one would make it again, and a final one would end it."""
    with ChangeJournal(played.config) as journal:
        journal.request("a", "ann", op.Change(backup=op.BackUp(uri="file:///kept", final=True)))
        journal.request("b", "ann", op.Change(checkpoint=op.SaveCheckpoint()))
    backed_up(played, tmp_path / "kept")
    assert leeway("restore", tmp_path / "kept", tmp_path / "there")[0] == 0
    server = EmbeddedRedis.start(RunDirectory.existing(tmp_path / "there").redis)
    try:
        with ChangeJournal(played.config.model_copy(update={"url": server.url})) as journal:
            assert [one.request_id for one in journal.pending()] == ["b"]
            first = journal.list()[0]
            assert (first.request_id, first.state) == ("a", op.CHANGE_STATE_APPLIED)
            assert "restored from this backup" in first.reason
            with client(played.config.model_copy(update={"url": server.url})) as raw:
                assert raw.zcard(Keys(played.config.run).change_pending) == 1
    finally:
        server.stop()
