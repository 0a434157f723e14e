"""The commit protocol: nothing is committed before it is durable, and a resume knows what the weights contain.

Also the effects of damage, and that a learner which was replaced while frozen cannot change anything once thawed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from learner.checkpoint.saver import Checkpointer, set_aside
from learner.checkpoint.store import CheckpointError, latest, read_state, write_state
from learner.config import CheckpointConfig
from learner.queue import GroupRef, HaltedError, StillAwayError
from learner.storage.digests import FileDigest
from learner.storage.fence import DirectoryFence, SupersededError


class SlowDisk:
    """A sharded writer whose save becomes durable when the test says so."""

    def __init__(self) -> None:
        self.durable = False
        self.full = False

    def begin_save(self, directory: Path) -> None:
        self.durable = False
        (directory / "shard").write_text("weights")

    def poll(self, blocking: bool) -> bool:
        if self.full:
            raise OSError(28, "No space left on device")
        self.durable |= blocking
        return self.durable

    def digests(self) -> dict[str, FileDigest]:
        return {}

    def load(self, directory: Path) -> None: ...


class Commits:
    def __init__(self) -> None:
        self.rows: list[tuple[int, list[str]]] = []
        self.failed: list[int] = []

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        self.rows.append((step, [ref.group_id for ref in refs]))

    def not_saved(self, step: int, error: Exception) -> None:
        self.failed.append(step)


def refs(*names: str) -> list[GroupRef]:
    return [GroupRef(fleet="a", group_id=name, entry_id="1-1") for name in names]


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def make(
    tmp_path: Path, disk: SlowDisk, commits: Commits, every: int = 2, keep: int = 2, epoch: int = 1
) -> Checkpointer:
    fence = DirectoryFence(tmp_path, epoch)
    fence.acquire()
    config = CheckpointConfig(dir=tmp_path, every=every, keep=keep)
    return Checkpointer(config, fence, disk, commits, lambda: None, lambda: {"version": 7})


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def test_commit_waits_for_durability_and_covers_only_what_the_checkpoint_contains(tmp_path: Path, disk: SlowDisk):
    commits = Commits()
    checkpointer = make(tmp_path, disk, commits)
    checkpointer.after_step(1, refs("a"))
    checkpointer.after_step(2, refs("b"))  # the save of step 2 begins: contains a and b
    checkpointer.after_step(3, refs("c"))
    assert commits.rows == []
    assert latest(tmp_path) is None
    assert checkpointer.uncommitted == 3
    disk.durable = True
    checkpointer.after_step(4, refs("d"))  # the save of step 2 is durable: committed; that of step 4 begins
    assert commits.rows == [(2, ["a", "b"])]
    assert checkpointer.uncommitted == 2
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.step, resume.state.trained) == (2, refs("a", "b"))
    assert resume.state.extra == {"version": 7}
    checkpointer.finish()
    assert commits.rows[1:] == [(4, ["c", "d"])]
    assert checkpointer.uncommitted == 0


def test_a_half_written_checkpoint_is_invisible_and_swept(tmp_path: Path, disk: SlowDisk):
    checkpointer = make(tmp_path, disk, Commits())
    checkpointer.save(5)  # killed here: never polled
    assert latest(tmp_path) is None
    make(tmp_path, disk, Commits(), epoch=2)
    assert [path.name for path in tmp_path.iterdir()] == [".epoch_00000002"]
    assert list((tmp_path / ".epoch_00000002").iterdir()) == []


def test_retention_and_the_newest_wins(tmp_path: Path, disk: SlowDisk):
    checkpointer = make(tmp_path, disk, Commits(), every=1, keep=2)
    for step in (9, 10, 11):
        checkpointer.after_step(step, refs(str(step)))
    checkpointer.finish()
    assert visible(tmp_path) == ["step_00000010_e0001", "step_00000011_e0001"]
    resume = latest(tmp_path)
    assert resume is not None
    assert resume.step == 11


def test_what_was_just_committed_is_remembered_in_case_redis_does_not(tmp_path: Path, disk: SlowDisk):
    checkpointer = make(tmp_path, disk, Commits(), every=1)
    checkpointer.after_step(1, refs("a"))
    checkpointer.after_step(2, refs("b"))
    checkpointer.finish()
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.state.trained, resume.state.recent) == (refs("b"), refs("a"))


def saved(tmp_path: Path, disk: SlowDisk) -> None:
    """Saves checkpoints of steps 1 (group a), 2 (b) and 3 (c, d)."""
    checkpointer = make(tmp_path, disk, Commits(), every=1, keep=3)
    checkpointer.after_step(1, refs("a"))
    checkpointer.after_step(2, refs("b"))
    checkpointer.after_step(3, refs("c", "d"))
    checkpointer.finish()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def forge(path: Path) -> None:
    """Replaces a group's name, so that the file is still valid JSON."""
    path.write_text(path.read_text().replace('"group_id": "c"', '"group_id": "x"'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: flip(d / "shard"), "shard: digest blake3:"),
        (lambda d: (d / "shard").write_text("w"), "shard: size 1, expected 7"),
        (lambda d: (d / "shard").unlink(), "shard: missing in "),
        (lambda d: forge(d / "state.json"), "state.json: damaged (its content does not match its SHA-256)"),
        (lambda d: (d / "state.json").write_text('{"sha256": "12'), "state.json: damaged (JSONDecodeError"),
        (lambda d: (d / "state.json").unlink(), "state.json: damaged (FileNotFoundError"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(
    tmp_path: Path, disk: SlowDisk, damage: Callable[[Path], None], reason: str
):
    saved(tmp_path, disk)
    damage(tmp_path / "step_00000003_e0001")
    resume = latest(tmp_path)
    assert resume is not None
    assert resume.step == 2
    assert reason in resume.damaged[0].reason
    fence = DirectoryFence(tmp_path, 2)
    fence.acquire()
    set_aside(fence, resume, keep=2)
    assert visible(tmp_path) == ["damaged_step_00000003_e0001", "step_00000001_e0001", "step_00000002_e0001"]


def test_two_damaged_ones_in_a_row_are_both_passed_over(tmp_path: Path, disk: SlowDisk):
    saved(tmp_path, disk)
    for step in (2, 3):
        flip(tmp_path / f"step_0000000{step}_e0001" / "shard")
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.step, [damaged.step for damaged in resume.damaged]) == (1, [3, 2])


def test_a_checkpoint_counts_the_groups_in_its_weights_over_all_learners(tmp_path: Path, disk: SlowDisk):
    """What a rollback gives up is found from this count, so it must not depend on which checkpoints are still there."""
    saved(tmp_path, disk)
    second = make(tmp_path, disk, Commits(), every=1, keep=1, epoch=2)
    second.after_step(4, [*refs("e"), GroupRef("b", "f", "1-1")])
    second.finish()
    resume = latest(tmp_path)
    assert resume is not None
    assert resume.state.contained == {"a": 5, "b": 1}


def test_only_damaged_ones_are_not_a_fresh_run(tmp_path: Path, disk: SlowDisk):
    saved(tmp_path, disk)
    for directory in tmp_path.glob("step_*"):
        flip(directory / "shard")
    with pytest.raises(CheckpointError, match="all 3 checkpoints are damaged"):
        latest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"schema": 1, "step": 4, "trained": []},
        {"state": {"schema": 4, "step": 4}, "sha256": ""},
        {"state": {"schema": 9}},
    ],
)
def test_a_checkpoint_of_another_schema_is_refused_and_not_passed_over(
    tmp_path: Path, disk: SlowDisk, content: dict[str, object]
):
    saved(tmp_path, disk)
    (tmp_path / "step_00000004_e0001").mkdir()
    (tmp_path / "step_00000004_e0001" / "state.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"step_00000004_e0001: the checkpoint's schema is \d, .* reads 5: resume"
    ):
        latest(tmp_path)


def test_an_unknown_digest_algorithm_stops_everything(tmp_path: Path, disk: SlowDisk):
    """Such a checkpoint is never passed over as if it were damaged: its weights may be the newest there are."""
    saved(tmp_path, disk)
    newest = tmp_path / "step_00000003_e0001"
    state = read_state(newest)
    write_state(newest, replace(state, files={"shard": FileDigest(7, "crc32:0011")}))
    with pytest.raises(CheckpointError, match="shard: algorithm 'crc32' is not known, only blake3 and sha256"):
        latest(tmp_path)


def test_a_zombie_cannot_finalize_what_it_was_writing(tmp_path: Path, disk: SlowDisk):
    """The learner is frozen while shards are written, a newer one starts, and it is thawed."""
    commits = Commits()
    zombie = make(tmp_path, disk, commits)
    zombie.after_step(1, refs("a"))
    zombie.save(2)
    make(tmp_path, SlowDisk(), Commits(), epoch=2)
    with pytest.raises(SupersededError, match="taken over from epoch 1"):
        zombie.finish()
    assert commits.rows == []
    assert visible(tmp_path) == []
    with pytest.raises(SupersededError):
        zombie.save(3)


def test_what_a_zombie_finalized_in_time_is_what_the_newer_one_resumes_from(tmp_path: Path, disk: SlowDisk):
    """The learner is frozen between rename and commit: its commit will fail, so the newer learner commits."""

    class Frozen(Commits):
        def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
            raise RuntimeError("FENCED")

    zombie = make(tmp_path, disk, Frozen())
    zombie.after_step(1, refs("a"))
    zombie.save(1)
    with pytest.raises(RuntimeError, match="FENCED"):
        zombie.finish()
    make(tmp_path, SlowDisk(), Commits(), epoch=2)
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.step, resume.state.epoch, resume.state.trained) == (1, 1, refs("a"))


def test_a_zombies_retention_spares_the_living(tmp_path: Path, disk: SlowDisk):
    """The learner is frozen between commit and retention, which would remove all but its own newest checkpoint."""
    roots: list[str] = []

    class Frozen(Commits):
        def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
            super().committed(step, refs, seconds)
            if step == 3:
                living = make(tmp_path, SlowDisk(), Commits(), every=1, epoch=2)
                living.after_step(4, [])
                living.finish()
                roots.extend(visible(tmp_path))

    zombie = make(tmp_path, disk, Frozen(), every=1, keep=1)
    for step in (1, 2, 3):
        zombie.after_step(step, [])
    zombie.finish()
    assert roots == ["step_00000003_e0001", "step_00000004_e0002"]  # the zombie, with keep=1, wanted only the last
    assert visible(tmp_path) == roots


def test_the_newest_epoch_wins_over_a_higher_step(tmp_path: Path, disk: SlowDisk):
    """After a fallback the newer learner's line leaves the older one's before its last step."""
    for epoch, step in ((1, 60), (1, 70), (2, 65)):
        checkpointer = make(tmp_path, disk, Commits(), every=1, keep=9, epoch=epoch)
        checkpointer.save(step)
        checkpointer.finish()
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.step, resume.state.epoch) == (65, 2)


def test_saving_the_same_step_twice_keeps_the_first(tmp_path: Path, disk: SlowDisk):
    commits = Commits()
    checkpointer = make(tmp_path, disk, commits)
    checkpointer.after_step(1, refs("a"))
    for _ in range(2):
        checkpointer.save(1)
        checkpointer.finish()
    resume = latest(tmp_path)
    assert resume is not None
    assert resume.state.trained == refs("a")
    assert commits.rows == [(1, ["a"]), (1, [])]
    assert commits.failed == []


def test_a_full_disk_commits_nothing_and_the_next_save_makes_up_for_it(tmp_path: Path, disk: SlowDisk):
    commits = Commits()
    checkpointer = make(tmp_path, disk, commits)
    checkpointer.after_step(1, refs("a"))
    checkpointer.after_step(2, refs("b"))
    disk.full = True
    checkpointer.after_step(3, refs("c"))
    assert commits.failed == [2]
    assert visible(tmp_path) == []
    disk.full = False
    checkpointer.after_step(4, refs("d"))
    checkpointer.finish()
    assert commits.rows == [(4, ["a", "b", "c", "d"])]


@pytest.mark.parametrize("error", [HaltedError, StillAwayError])
def test_groups_that_the_queue_does_not_take_now_are_committed_with_the_next_checkpoint(
    tmp_path: Path, disk: SlowDisk, error: type[StillAwayError]
):
    class Halted(Commits):
        halted = True

        def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
            if self.halted:
                raise error("not now")
            super().committed(step, refs, seconds)

    commits = Halted()
    checkpointer = make(tmp_path, disk, commits, every=1)
    checkpointer.after_step(1, refs("a"))
    checkpointer.finish()
    assert (commits.rows, checkpointer.uncommitted) == ([], 1)
    checkpointer.after_step(2, refs("b"))
    commits.halted = False
    checkpointer.finish()
    assert (commits.rows, checkpointer.uncommitted) == ([(2, ["a", "b"])], 0)
    resume = latest(tmp_path)
    assert resume is not None
    assert resume.state.trained == refs("a", "b")
