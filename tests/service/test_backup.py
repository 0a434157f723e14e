"""Tests of backups and of what is restored from them: real Redis, real files, and a learner that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner.backup.errors import BackupError
from learner.backup.file_copy import FileCopy
from learner.backup.instant import Instant, read_instant
from learner.backup.live import back_up
from learner.backup.manifest import MANIFEST, backups_in, read_manifest
from learner.backup.progress import CopyProgress
from learner.backup.queue_parts import AHEAD, QueueParts
from learner.backup.restore import fetch_backup, load_queue
from learner.backup.run_sources import RunSources
from learner.backup.store import BackupStore
from learner.backup.write import write_backup
from learner.checkpoint import store
from learner.cli.operate.backup import back_up_run, restore_run
from learner.cli.run.run_directory import RunDirectory
from learner.config import LearnerConfig, QueueConfig
from learner.queue import Appended, EmbeddedRedis, GatewayQueue, HaltedError, LearnerQueue, recount
from learner.queue.dump import QueueDump, QueueSnapshot
from learner.queue.dump_record import PAYLOAD
from learner.queue.keys import Keys
from tests.service.backed_up import PlayedRun, leeway
from tests.service.fleet import valid_group
from tests.service.queueing import client, feed, ids, ledger
from tests.tools.published import flip


@pytest.fixture
def played(tmp_path: Path) -> Iterator[PlayedRun]:
    run = PlayedRun(tmp_path / "run")
    yield run
    run.stop()


def only(uri: Path) -> Path:
    (name,) = backups_in(BackupStore(str(uri)))
    return uri / name


async def test_a_restored_run_goes_on_where_the_backup_was_made(played: PlayedRun, tmp_path: Path):
    """30 groups: 4 are committed, 3 are in the checkpoint and not committed, 5 are in flight, 18 wait."""
    groups = [valid_group() for _ in range(30)]
    await played.feed(groups)
    played.train(4)
    played.commit(played.save(healthy=True))
    played.train(3)
    played.save()
    played.train(5)
    before = ledger(played.config)
    (played.run.state / "worker-0.cursor.json").write_text('{"next": 7}')
    status, text = leeway("backup", played.run.root, tmp_path / "kept")
    assert status == 0, text
    assert "step 2, 30 groups accepted, 4 trained, 26 waiting" in text
    status, text = leeway("restore", tmp_path / "kept", tmp_path / "again")
    assert status == 0, text
    again = RunDirectory.existing(tmp_path / "again")
    names = [directory.name for directory in store.completed(again.checkpoints)]
    assert names == ["step_00000001_e0001", "step_00000002_e0001"]
    assert store.latest(again.checkpoints) is not None
    assert (again.state / "worker-0.cursor.json").read_text() == '{"next": 7}'
    assert (again.weights / "latest").read_text() == "0"
    assert not (again.root / "queue").exists()
    server = EmbeddedRedis.start(again.redis)
    try:
        config = played.config.model_copy(update={"url": server.url})
        after = ledger(config)
        assert (after.received, after.accepted, after.trained) == (before.received, before.accepted, before.trained)
        assert (after.queued, after.in_flight) == (before.queued + before.in_flight, 0)
        state = store.read_state(store.completed(again.checkpoints)[-1])
        learner = LearnerQueue.open(config)
        assert learner.epoch == played.learner.epoch + 1
        assert learner.begin(state.step, state.trained, state.extra["witness"]) == 3
        assert state.extra["version"] > 999  # fleets may know versions that were published after the backup
        assert learner.give_up(state.contained, record=True) == 0
        assert recount(config).discrepancies == []
        gateway = GatewayQueue(config, quarantine_groups=10)
        await gateway.check()
        new = valid_group()
        assert await feed(gateway, [*groups, new]) == [*[Appended.DUPLICATE] * 30, Appended.ACCEPTED]
        ((_, policy),) = await gateway.policies("0")
        assert policy.uri == (again.weights / "weight_v000000").as_uri()
        assert ids(learner.take(99, 2, 99)) == [group.group_id for group in [*groups[7:], new]]
        await gateway.close()
        learner.close()
    finally:
        server.stop()


async def test_every_backup_of_a_busy_run_is_one_instant_of_it(played: PlayedRun, tmp_path: Path):
    """Groups are accepted, trained, checkpointed and committed without a pause while backups are made."""
    await played.feed([valid_group() for _ in range(20)])
    played.train(2)
    played.commit(played.save())
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            asyncio.run(played.feed([valid_group() for _ in range(3)]))
            played.train(3)
            state = played.save()
            played.commit(state)
            for old in store.completed(played.run.checkpoints)[:-3]:
                (old / "shard.distcp").unlink()
                (old / "state.json").unlink()
                old.rmdir()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(4):
            back_up_run(played.run, str(tmp_path / f"kept{number}"), None, lambda line: None)
    finally:
        ended.set()
        worker.join()
    for number in range(4):
        consistent(only(tmp_path / f"kept{number}"), tmp_path / f"again{number}")


def consistent(backup: Path, directory: Path) -> None:
    """Checks that what Redis counts as trained is in the checkpoint, and that this names the rest of what it contains."""
    restore_run(str(backup), directory, None, lambda line: None)
    run = RunDirectory.existing(directory)
    state = store.read_state(store.completed(run.checkpoints)[-1])
    assert state.step == read_manifest(BackupStore(str(backup))).step
    server = EmbeddedRedis.start(run.redis)
    try:
        config = QueueConfig(url=server.url, run=run.identity("demo"))
        before = ledger(config)
        learner = LearnerQueue.open(config)
        committed = learner.begin(state.step, state.trained, state.extra["witness"])
        assert before.trained + committed == state.contained["alpha"]
        assert learner.give_up(state.contained, record=True) == 0
        assert (ledger(config).lost, recount(config).discrepancies) == (0, [])
        assert len(learner.take(999, state.step, 99)) == before.accepted - state.contained["alpha"]
        assert ledger(config).lost == 0
        learner.close()
    finally:
        server.stop()


async def test_ids_that_have_settled_are_read_before_the_instant(played: PlayedRun, tmp_path: Path):
    groups = [valid_group() for _ in range(4)]
    old = [valid_group(group_id=f"018f0000-0000-7000-8000-{number:012d}") for number in range(3)]
    await played.feed(old)
    played.train(3)
    played.commit(played.save())
    await played.feed(groups)
    back_up_run(played.run, str(tmp_path / "kept"), None, lambda line: None)
    (ahead,) = (only(tmp_path / "kept") / "queue").glob("ahead-*")
    assert b":ids:" in ahead.read_bytes()
    restore_run(str(tmp_path / "kept"), tmp_path / "again", None, lambda line: None)
    with EmbeddedRedis.serving(tmp_path / "again" / "redis") as url:
        gateway = GatewayQueue(played.config.model_copy(update={"url": url}), quarantine_groups=10)
        await gateway.check()
        assert await feed(gateway, old + groups) == [Appended.DUPLICATE] * 7
        await gateway.close()


async def test_a_damaged_or_incomplete_backup_is_refused_by_name(played: PlayedRun, tmp_path: Path):
    await played.feed([valid_group()])
    played.save()
    kept, again = tmp_path / "kept", tmp_path / "again"
    back_up_run(played.run, str(kept), None, lambda line: None)
    shard = only(kept) / "checkpoints" / "step_00000000_e0001" / "shard.distcp"
    flip(shard)
    status, text = leeway("restore", kept, again)
    assert (status, "shard.distcp: damaged" in text) == (2, True), text
    shard.unlink()
    assert "shard.distcp: cannot be read" in leeway("restore", kept, again)[1]
    manifest = only(kept) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"step": 0', '"step": 1'))
    assert "MANIFEST.json: damaged" in leeway("restore", kept, again)[1]
    manifest.unlink()
    assert "there is no complete backup" in leeway("restore", kept, again)[1]
    assert not again.exists()
    assert not again.with_name("again.restoring").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    back_up_run(played.run, str(kept), None, lambda line: None)
    assert "not empty" in leeway("restore", kept, tmp_path / "full")[1]


async def test_the_oldest_backups_of_the_run_are_removed(played: PlayedRun, tmp_path: Path):
    played.save()
    place = BackupStore(str(tmp_path / "kept"))
    other = tmp_path / "kept" / "backup-20200101T000000000Z-00000000"
    other.mkdir(parents=True)
    cut_off = tmp_path / "kept" / "backup-20200102T000000000Z-00000000"
    cut_off.mkdir()
    written = [back_up_run(played.run, place.uri, None, lambda line: None) for _ in range(3)]
    content = json.loads((tmp_path / "kept" / Path(written[0].uri).name / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(content).replace(played.config.run, "another"))
    status, text = leeway("backup", played.run.root, place.uri, "--keep", 2)
    assert status == 0, text
    kept = [Path(written[2].uri).name, next(iter(set(backups_in(place)) - {other.name, Path(written[2].uri).name}))]
    assert backups_in(place) == [other.name, *kept]  # one that is damaged or of another run stays
    assert not cut_off.exists()


def test_a_backup_whose_elders_cannot_be_removed_is_said_to_be_complete(
    played: PlayedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object) -> None:
        raise PermissionError("no permission to delete")

    played.save()
    place = BackupStore(str(tmp_path / "kept"))
    back_up_run(played.run, place.uri, 1, lambda line: None)
    monkeypatch.setattr(BackupStore, "remove", refused)
    with pytest.raises(BackupError, match=": complete, but older backups could not be removed: no permission"):
        back_up_run(played.run, place.uri, 1, lambda line: None)
    assert [place.exists(f"{name}/{MANIFEST}") for name in backups_in(place)] == [True, True]


async def test_a_run_that_is_not_in_progress_is_backed_up(played: PlayedRun, tmp_path: Path):
    await played.feed([valid_group() for _ in range(3)])
    played.save()
    played.stop()
    status, text = leeway("backup", played.run.root, tmp_path / "kept")
    assert status == 0, text
    assert "3 waiting" in text
    assert EmbeddedRedis.url_of(played.run.redis) is None


def test_what_cannot_be_backed_up_is_said(played: PlayedRun, tmp_path: Path):
    assert "there is no complete checkpoint yet" in leeway("backup", played.run.root, tmp_path / "kept")[1]
    played.save()
    flip(played.run.checkpoints / "step_00000000_e0001" / "shard.distcp")
    status, text = leeway("backup", played.run.root, tmp_path / "kept")
    assert (status, "shard.distcp is damaged" in text) == (2, True), text
    assert "there is no complete backup" in leeway("restore", tmp_path / "kept", tmp_path / "again")[1]


async def test_a_damaged_version_is_left_out_and_said(played: PlayedRun, tmp_path: Path):
    played.publish(1)
    played.save()
    (played.run.weights / "pinned").mkdir()
    (played.run.weights / "pinned" / "000000").touch()
    flip(played.run.weights / "weight_v000000" / "config.json")
    status, text = leeway("backup", played.run.root, tmp_path / "kept")
    assert status == 0, text
    assert "left out: weights/weight_v000000 (damaged: config.json)" in text
    assert not (only(tmp_path / "kept") / "weights" / "weight_v000000").exists()
    assert "not in the backup: weights/weight_v000000" in leeway("restore", tmp_path / "kept", tmp_path / "again")[1]
    assert (tmp_path / "again" / "weights" / "latest").read_text() == "1"


async def test_the_learner_backs_itself_up_in_the_background(played: PlayedRun, tmp_path: Path):
    await played.feed([valid_group() for _ in range(3)])
    played.save()
    run = played.run
    config = LearnerConfig.parse(
        {
            "model": run.root / "base",
            "queue": {"url": played.config.url, "run": played.config.run},
            "steps": 1,
            "checkpoint": {"dir": run.checkpoints},
            "publish": {
                "dir": run.weights,
                "mirror": [{"name": "tokyo", "url": "s3://bucket/weights", "url_options": {"secret": "hidden"}}],
            },
            "metrics_dir": run.metrics,
        },
        "test",
    )
    written = back_up(config, (tmp_path / "kept").as_uri(), keep=1).result(60)
    assert "3 waiting" in written.describe()
    settings = (only(tmp_path / "kept") / "learner.json").read_text()
    assert "hidden" not in settings
    assert played.config.url.partition(":")[2].partition("@")[0].removeprefix("//:") not in settings
    with pytest.raises(BackupError, match="expected file:///path, s3://bucket/path"):
        back_up(config, "s3://bucket/../path")
    shard = only(tmp_path / "kept") / "checkpoints" / "step_00000000_e0001" / "shard.distcp"
    flip(shard)  # found only by a restore that copies files
    assert "--queue-url" in leeway("restore", tmp_path / "kept", tmp_path / "again")[1]
    assert (
        "queue.url = 'http://x'"
        in leeway("restore", tmp_path / "kept", tmp_path / "again", "--queue-url", "http://x")[1]
    )
    flip(shard)
    other = EmbeddedRedis.start(tmp_path / "other")
    try:
        status, text = leeway("restore", tmp_path / "kept", tmp_path / "again", "--queue-url", other.url)
        assert status == 0, text
        assert ledger(played.config.model_copy(update={"url": other.url})).queued == 3
        flip(shard)
        status, text = leeway("restore", tmp_path / "kept", tmp_path / "twice", "--queue-url", other.url)
        assert (status, "3 groups were accepted there" in text) == (2, True), text
    finally:
        other.stop()


async def test_a_load_that_was_cut_off_is_made_again_and_one_that_is_disturbed_is_refused(
    played: PlayedRun, tmp_path: Path
):
    await played.feed([valid_group() for _ in range(3)])
    played.save()
    back_up_run(played.run, str(tmp_path / "kept"), None, lambda line: None)
    place = BackupStore(str(only(tmp_path / "kept")))
    manifest, fetched = read_manifest(place), tmp_path / "fetched"
    fetched.mkdir()
    fetch_backup(place, manifest, fetched, CopyProgress(), only=("queue/",))
    assert [path.name for path in fetched.iterdir()] == ["queue"]
    other = EmbeddedRedis.start(tmp_path / "other")
    config = played.config.model_copy(update={"url": other.url})
    keys = Keys(config.run)
    try:
        with client(config) as raw:
            raw.set(keys.schema.removesuffix("schema") + "loading", 1)
            raw.sadd(keys.fleets, "alpha")
            raw.hset(keys.ledger("alpha"), "accepted", 2)
            load_queue(fetched, manifest, config, "file:///w")
            assert ledger(config).queued == 3
            raw.flushall()
        (part,) = (fetched / "queue").glob("instant-*")
        part.write_bytes(part.read_bytes()[:-1])
        with pytest.raises(Exception, match="ends within the content"):
            load_queue(fetched, manifest, config, "file:///w")
    finally:
        other.stop()


def test_sources_need_no_run_file(played: PlayedRun, tmp_path: Path):
    played.save()
    run = played.run
    sources = RunSources(played.config, run.checkpoints, run.weights, run.metrics, texts={"learner.json": "{}"})
    lines: list[str] = []
    written = write_backup(sources, str(tmp_path / "kept"), None, CopyProgress(lines.append))
    assert "metrics/learner.jsonl" in written.manifest.files
    assert "learner.json" in written.manifest.files
    assert not any(name.startswith("redis") for name in written.manifest.files)


class Disturbed(QueueDump):
    """A dump during which something happens: before its first script, and after it."""

    def __init__(self, config: QueueConfig, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__(config)
        self._before, self._after = before, after
        self.snapshots = 0

    def snapshot(self) -> QueueSnapshot:
        self.snapshots += 1
        if self.snapshots > 1:
            return super().snapshot()
        self._before()
        found = super().snapshot()
        self._after()
        return found


def instant(played: PlayedRun, dump: Disturbed, directory: Path) -> tuple[Instant, str]:
    """Reads the instant of a backup; returns it and what was read ahead."""
    sources = RunSources(played.config, played.run.checkpoints, played.run.weights, played.run.metrics)
    copy = FileCopy(BackupStore(str(directory)), CopyProgress())
    parts = QueueParts(copy, AHEAD)
    with contextlib.ExitStack() as stack:
        found = read_instant(sources, None, dump, parts, stack)
    parts.flush()
    return found, "".join(path.read_bytes().decode("latin-1") for path in directory.glob("queue/*"))


def test_groups_that_are_accepted_before_the_instant_are_in_it_with_their_payloads(played: PlayedRun, tmp_path: Path):
    played.save()
    group = valid_group()
    with Disturbed(played.config, lambda: asyncio.run(played.feed([group])), lambda: None) as dump:
        found, ahead = instant(played, dump, tmp_path / "kept")
    assert [one.payload.rpartition(":")[2] for one in found.snapshot.groups] == [group.group_id]
    assert f'"kind": "{PAYLOAD}"' in ahead
    assert dump.snapshots == 1


def test_redis_is_read_again_when_a_payload_has_gone_or_a_checkpoint_has_come(played: PlayedRun, tmp_path: Path):
    asyncio.run(played.feed([valid_group() for _ in range(2)]))
    played.commit(played.save())

    def appears() -> None:
        asyncio.run(played.feed([valid_group()]))

    def goes() -> None:
        taken = played.learner.take(99, 0, 99)
        played.learner.quarantine(1, [(one.ref, one.group) for one in taken[-1:]], "loss")

    with Disturbed(played.config, appears, goes) as dump:
        found, _ = instant(played, dump, tmp_path / "gone")
    assert (dump.snapshots, len(found.snapshot.groups)) == (2, 2)
    played.learner.close()
    played.learner = played.begin()
    played.train(1)
    with Disturbed(played.config, lambda: None, lambda: played.commit(played.save())) as dump:
        found, _ = instant(played, dump, tmp_path / "newer")
    assert (dump.snapshots, found.state.step, found.snapshot.witness.trained) == (2, 1, {"alpha": 1})


def test_keys_that_appear_while_the_names_are_listed_are_in_the_dump(played: PlayedRun):
    played.save()
    names: list[set[str]] = []

    class Slow(QueueDump):
        def _names(self) -> set[str]:
            found = super()._names()
            if not names:
                asyncio.run(played.feed([valid_group()], "beta"))
            names.append(found)
            return found

    with Slow(played.config) as dump:
        snapshot = dump.snapshot()
    assert snapshot.queued == {"beta": 1}
    assert any(":ids:beta:" in record.key for record in snapshot.records)


def test_the_checkpoint_may_be_removed_while_it_is_copied(played: PlayedRun, tmp_path: Path):
    played.save()
    (directory,) = store.completed(played.run.checkpoints)
    with contextlib.ExitStack() as stack, QueueDump(played.config) as dump:
        sources = RunSources(played.config, played.run.checkpoints, played.run.weights, played.run.metrics)
        copy = FileCopy(BackupStore(str(tmp_path / "kept")), CopyProgress())
        found = read_instant(sources, None, dump, QueueParts(copy, AHEAD), stack)
        shutil.rmtree(directory)
        copy.copy(found.opened)
    assert copy.files[f"checkpoints/{directory.name}/shard.distcp"] == found.state.files["shard.distcp"]


def test_versions_may_be_removed_while_they_are_copied(played: PlayedRun, tmp_path: Path):
    class Retention(CopyProgress):
        def advance(self, size: int, name: str) -> None:
            if name.startswith(("checkpoints/", "weights/")):
                shutil.rmtree(played.run.weights / "weight_v000000", ignore_errors=True)

    played.save()
    run = played.run
    sources = RunSources(played.config, run.checkpoints, run.weights, run.metrics)
    written = write_backup(sources, str(tmp_path / "kept"), None, Retention())
    assert not (run.weights / "weight_v000000").exists()
    assert written.manifest.left_out == {}
    assert (only(tmp_path / "kept") / "weights" / "latest").read_text() == "0"


async def test_a_queue_that_is_halted_or_behind_its_checkpoint_is_not_backed_up(played: PlayedRun, tmp_path: Path):
    played.learner.guard.begin(None)
    with client(played.config) as raw:
        keys = Keys(played.config.run)
        raw.hincrby(keys.clock, "now", 60_000)
        played.save()
        raw.hincrby(keys.clock, "now", -60_000)
        assert "older data than" in leeway("backup", played.run.root, tmp_path / "kept")[1]
        with pytest.raises(HaltedError):
            played.learner.guard.begin(played.learner.guard.witness())
        assert "not backed up: the queue of run" in leeway("backup", played.run.root, tmp_path / "kept")[1]
