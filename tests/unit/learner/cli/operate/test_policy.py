"""`leeway policy` on the versions and checkpoints of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from learner.checkpoint.saver import Checkpointer
from learner.checkpoint.store import latest
from learner.cli.app import app
from learner.cli.run.run_directory import RunDirectory
from learner.config import CheckpointConfig
from learner.queue import GroupRef
from learner.queue.versions_in_use import VersionsInUse
from learner.storage.digests import FileDigest
from learner.storage.fence import DirectoryFence
from leeway.v1 import rollout_pb2 as pb
from rollout.data.demo_model import write_model
from tests.tools.adapters import LORA, publish_adapter
from tests.tools.published import flip, write_manifest
from tests.tools.publishing import Scene
from tests.tools.runs import make_run

pytestmark = pytest.mark.usefixtures("process_group")


class Disk:
    """A checkpoint writer that writes at once."""

    def begin_save(self, directory: Path) -> None:
        (directory / "shard").write_text("weights")

    def poll(self, blocking: bool) -> bool:
        return True

    def digests(self) -> dict[str, FileDigest]:
        return {}

    def load(self, directory: Path) -> None: ...


class Commits:
    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None: ...

    def not_saved(self, step: int, error: Exception) -> None:
        raise error


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Versions 0 to 4 (0 and 3 full) of steps 1 to 5, and checkpoints of steps 2, 4 and 6 with two groups each."""
    directory = make_run(tmp_path / "run").directory
    (tmp_path / "scene").mkdir()
    scene = Scene(tmp_path / "scene", keep=9, full_every=3)
    scene.publish(5)
    os.rmdir(directory.weights)
    scene.root.rename(directory.weights)
    fence = DirectoryFence(directory.checkpoints, 1)
    fence.acquire()
    config = CheckpointConfig(dir=directory.checkpoints, every=2, keep=9)
    checkpointer = Checkpointer(config, fence, Disk(), Commits(), lambda: None)
    for step in range(1, 7):
        checkpointer.after_step(step, [GroupRef("a", str(step), "1-1")])
    checkpointer.finish()
    return directory


def leeway(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["policy", *map(str, arguments)], env={"COLUMNS": "200"})


def test_list_says_what_each_version_is(run: RunDirectory):
    assert leeway("pin", run.root, 1).output == "weight_v000001 is pinned\n"
    result = leeway("list", run.root)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()[1:]]
    assert [row[:3] for row in rows] == [[str(v), str(v + 1), "1"] for v in range(5)]
    kinds = [" ".join(row[4:7]) if row[4] == "delta" else row[4] for row in rows]
    assert kinds == ["full", "delta of 0", "delta of 1", "full", "delta of 3"]
    assert "pinned" in rows[1]
    assert "newest" in rows[4]
    assert int(rows[1][3].replace(",", "")) < int(rows[0][3].replace(",", "")) / 5
    assert leeway("pin", run.root, 1, "--off").output == "weight_v000001 is no longer pinned\n"
    assert "pinned" not in leeway("list", run.root).output
    (run.weights / "weight_v000002" / "manifest.json").unlink()
    result = leeway("list", run.root)
    assert result.exit_code == 0
    assert "unreadable" in result.output.splitlines()[3]


def test_an_adapter_is_listed_by_its_rank_and_verified(run: RunDirectory, tmp_path: Path):
    write_model(tmp_path / "model", 0)
    publish_adapter(tmp_path / "model", run.weights, 5, LORA)
    assert "adapter, rank 3" in leeway("list", run.root).output.splitlines()[-1]
    assert leeway("verify", run.root, 5).output == "weight_v000005  ok\n"
    flip(run.weights / "weight_v000005" / "adapter_model.safetensors")
    result = leeway("verify", run.root, 5)
    assert result.exit_code == 1
    assert "adapter_model.safetensors: digest" in result.output


def test_adapters_are_read_on_the_runs_model_where_the_one_they_name_is_gone(run: RunDirectory, tmp_path: Path):
    write_model(tmp_path / "model", 0)
    for version in (5, 6):
        publish_adapter(tmp_path / "model", run.weights, version, LORA)
    (tmp_path / "model").rename(run.model)
    assert "built from 5; " in leeway("show", run.root, 5).output
    assert leeway("verify", run.root, 5).output == "weight_v000005  ok\n"
    assert "elements (" in leeway("diff", run.root, 5, 6).output.splitlines()[-1]


def test_list_says_what_versions_are_worth_and_which_is_the_best(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    evaluation = pb.Evaluation(version=3, name="sort", sampling="greedy")
    for name, value in (("length_mean", 9.0), ("mean@1", 0.5)):
        evaluation.metrics[name].CopyFrom(pb.Interval(value=value, low=value, high=value))
    known = VersionsInUse(registered=set(range(5)), evaluations={3: [evaluation]}, best=3)
    monkeypatch.setattr("learner.cli.operate.publications.publications_of", lambda _: known)
    rows = leeway("list", run.root).output.splitlines()[1:]
    assert ["best" in row for row in rows] == [False, False, False, True, False]
    assert "sort greedy 0.500" in rows[3]


def test_verify_finds_damage_in_a_file_and_in_a_base(run: RunDirectory):
    sound = leeway("verify", run.root)
    assert sound.exit_code == 0
    assert sound.output.splitlines() == [f"weight_v00000{v}  ok" for v in range(5)]
    flip(run.weights / "weight_v000000" / "model-00000.safetensors")
    result = leeway("verify", run.root)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert "model-00000.safetensors: " in lines[0]
    assert "applying the delta does not give the digest" in lines[1]
    assert lines[3:] == ["weight_v000003  ok", "weight_v000004  ok"]
    assert leeway("verify", run.root, 4).exit_code == 0


def test_verify_names_an_unknown_algorithm_and_an_unknown_schema(run: RunDirectory):
    directory = run.weights / "weight_v000003"
    write_manifest(directory, 3, digests={"config.json": "crc32:0011"})
    result = leeway("verify", run.root, 3)
    assert result.exit_code == 1
    assert "config.json: digest algorithm 'crc32' is not known, only blake3 and sha256" in result.output
    write_manifest(directory, 3, changes={"schema": 1})
    result = leeway("verify", run.root)
    assert result.exit_code == 1
    assert "manifest.schema 1, expected 2" in result.output.splitlines()[3]


def test_diff_counts_what_changed(run: RunDirectory):
    result = leeway("diff", run.root, 0, 4)
    assert result.exit_code == 0, result.output
    embed, norm = (line.split() for line in result.output.splitlines()[1:3])
    assert norm == ["norm", "32", "0.00%", "0"]
    assert (embed[0], embed[1]) == ("embed", "2,048")
    assert 2.0 < float(embed[2].rstrip("%")) < 4.0  # four times 20 elements, some of them twice
    assert float(embed[3]) >= 1.0
    assert "no manifest of a version" in leeway("diff", run.root, 0, 9).stderr
    assert leeway("diff", run.root, 0, 9).exit_code == 2


def test_show_prints_the_manifest_and_the_chain(run: RunDirectory):
    output = leeway("show", run.root, 2).output
    assert '"base_version": 1' in output
    assert output.splitlines()[-1] == "built from 0 + 1 + 2; 2 tensors"


def test_rollback_sets_later_checkpoints_aside_and_says_what_is_lost(run: RunDirectory):
    result = leeway("rollback", run.root, 2)  # of step 3
    assert result.exit_code == 0, result.output
    assert "continue from step_00000002_e0001, step 2" in result.output
    assert "4 groups trained between step 2 and 6 are not in these weights" in result.output
    resume = latest(run.checkpoints)
    assert resume is not None
    assert resume.step == 2
    assert sorted(path.name for path in run.checkpoints.glob("rolled_back_*")) == [
        "rolled_back_step_00000004_e0001",
        "rolled_back_step_00000006_e0001",
    ]


def test_rollback_of_a_run_in_progress_is_its_gateways(run: RunDirectory):
    with run.lock():
        result = leeway("rollback", run.root, 2)
    assert result.exit_code == 2
    assert "no operator's token there" in result.stderr
    assert not list(run.checkpoints.glob("rolled_back_*"))


def test_rollback_refuses_a_version_older_than_every_checkpoint(run: RunDirectory):
    result = leeway("rollback", run.root, 0)
    assert result.exit_code == 2
    assert "no intact checkpoint at or before step 1" in result.stderr
    resume = latest(run.checkpoints)
    assert resume is not None
    assert resume.step == 6


def test_rollback_skips_a_damaged_checkpoint(run: RunDirectory):
    flip(run.checkpoints / "step_00000004_e0001" / "shard")
    assert "step_00000002_e0001, step 2" in leeway("rollback", run.root, 4).output
