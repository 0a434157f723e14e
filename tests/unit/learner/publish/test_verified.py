"""The learner reads its own versions back: full and delta to the bit, damaged ones never; and which of them must stay."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from structlog.testing import capture_logs

from learner.batch.packing import Layout
from learner.behaviour.recompute import Behaviour
from learner.behaviour.token_scorer import TokenScorer
from learner.behaviour.weight_cache import ReadWeights
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.megatron.training.scorer import Scorer
from learner.objectives import get
from learner.publish import verified
from learner.publish.catalog import CatalogError
from learner.publish.verified import VerifiedVersions
from runtime.settings import SettingsError
from runtime.version_format import file_check
from tests.tools.published import flip
from tests.tools.publishing import Scene

pytestmark = pytest.mark.usefixtures("process_group")


def test_full_versions_and_deltas_are_read_to_the_bit(tmp_path: Path):
    scene = Scene(tmp_path, full_every=3, keep=9)
    scene.publish(5)
    versions = VerifiedVersions(scene.root)
    for version, weights in enumerate(scene.history):
        source = versions.open(version)
        for name, expected in weights.items():
            found = source.read(name, tuple(expected.shape))
            assert found.dtype == torch.bfloat16
            assert torch.equal(found.view(torch.int16), expected.view(torch.int16)), (version, name)
    with pytest.raises(CatalogError, match=r"version 0: no tensor head"):
        versions.open(0).read("head", (1,))
    with pytest.raises(CatalogError, match=r"embed has 2048 elements, not \[64, 33\]"):
        versions.open(0).read("embed", (64, 33))


def test_a_tensor_that_is_float32_in_every_version_is_read_to_the_bit(tmp_path: Path):
    scene = Scene(tmp_path, full_every=3, keep=9)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    scene.weights[name] = torch.randn(16, generator=scene.draw)
    scene.publish(2)  # one full, one a delta
    versions = VerifiedVersions(scene.root)
    for version, weights in enumerate(scene.history):
        found = versions.open(version).read(name, (16,))
        assert found.dtype == torch.float32
        assert torch.equal(found, weights[name]), version


def test_a_damaged_version_is_not_read_and_neither_are_its_deltas(tmp_path: Path):
    scene = Scene(tmp_path, full_every=3, keep=9)
    scene.publish(4)  # 0 full, 1 and 2 deltas, 3 full
    flip(scene.root / "weight_v000000" / "model-00000.safetensors")
    versions = VerifiedVersions(scene.root)
    for version in (0, 1, 2):
        assert "model-00000.safetensors: digest blake3:" in (versions.problem(version) or "")
        with pytest.raises(CatalogError, match=f"version {version}: model-00000"):
            versions.open(version)
    assert versions.problem(3) is None
    assert "no manifest" in (versions.problem(4) or "")


class NoScorer:
    """A model without parameters."""

    version_bytes = 8

    def read(self, source: Any) -> list[torch.Tensor]:
        return [torch.ones(2)]


def behaviour(tmp_path: Path, root: Path, **values: Any) -> Behaviour:
    config = LearnerConfig.parse(
        {
            "model": str(tmp_path), "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "max_staleness": 3,
            "checkpoint": {"dir": "x"}, "publish": {"dir": str(root)}, "metrics_dir": "x", **values,
        },
        source="test",
    )  # fmt: skip
    ranks = cast(Ranks, SimpleNamespace(rank=0, local_size=1, data_size=1, expert_size=1))
    return Behaviour(
        config, get(config.objective), TokenScorer(cast(Scorer, NoScorer()), ranks, Layout(), config.seed), ranks
    )


def test_a_version_is_usable_while_it_is_on_disk_and_whole(tmp_path: Path):
    scene = Scene(tmp_path, keep=9)
    scene.publish(3)
    flip(scene.root / "weight_v000001" / "model-00000.safetensors")
    ours = behaviour(tmp_path, scene.root, objective={"name": "grpo"})
    assert [ours.usable(version) for version in (0, 1, 2, 3)] == [True, False, True, False]


def test_a_version_that_the_disk_does_not_give_is_read_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scene = Scene(tmp_path, keep=9)
    scene.publish(2)
    ours, asked = behaviour(tmp_path, scene.root, objective={"name": "grpo"}), list[str]()

    def stale(path: Path, algorithm: str) -> Any:
        asked.append(path.parent.name)
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with monkeypatch.context() as disk, capture_logs() as logs:
        disk.setattr(file_check, "of_file", stale)
        assert [ours.usable(0) for _ in range(3)] == [False] * 3
        assert len(asked) == len(list((scene.root / "weight_v000000").iterdir())) - 1, "it is hashed for every group"
        disk.setattr(verified, "_RETRY_S", 0.0)
        assert not ours.usable(1)
    assert [(line["version"], line["read_again"]) for line in logs] == [(0, True), (1, True)]
    assert (ours.usable(0), ours.usable(1)) == (False, True)  # the minute of version 0 is not over
    flip(scene.root / "weight_v000001" / "model-00000.safetensors")
    assert ours.usable(1), "what was read once is known"


def test_a_manifest_that_the_disk_does_not_give_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scene = Scene(tmp_path, keep=9)
    scene.publish(1)
    versions = VerifiedVersions(scene.root)
    monkeypatch.setattr(verified, "_RETRY_S", 0.0)

    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_bytes", broken)
        assert "Input/output error" in (versions.problem(0) or "")
    assert versions.may_pass(0)
    assert versions.problem(0) is None
    assert not versions.may_pass(0)
    assert versions.problem(4) is not None
    assert not versions.may_pass(4)


def test_what_is_in_memory_is_not_hashed_again(tmp_path: Path):
    """It is what was published, whatever has become of the file; but no other rank may have to read it."""
    scene = Scene(tmp_path, keep=9)
    scene.publish(1)
    ours = behaviour(tmp_path, scene.root, objective={"name": "drpo"})
    ours.cache(0, ReadWeights([torch.zeros(2)]))
    ours.cache(1, ReadWeights([torch.zeros(2)]))  # being published: not on disk yet
    flip(scene.root / "weight_v000000" / "model-00000.safetensors")
    assert (ours.usable(0), ours.usable(1)) == (True, False)


def test_what_must_stay_on_disk(tmp_path: Path):
    scene = Scene(tmp_path, keep=20)
    scene.publish(12)
    asked: list[int] = []

    def fresh(versions: Any, bound: int) -> set[int]:
        asked.append(bound)
        return {version for version in versions if 11 - version <= bound}

    plain = behaviour(tmp_path, scene.root)
    plain.freeze_reference(0, step=0)
    assert plain.needed(fresh) == set()
    ratio = behaviour(tmp_path, scene.root, objective={"name": "topr"})
    assert ratio.needed(fresh) == set(range(3, 12))  # groups expire after 3 + 4 steps; and a step of margin
    longer = behaviour(tmp_path, scene.root, objective={"name": "topr"}, expire_after=9)
    assert longer.needed(fresh) == set(range(1, 12))
    assert behaviour(tmp_path, scene.root, behaviour={"drift_every": 5}).needed(fresh) == set(range(4, 12))
    anchored = behaviour(tmp_path, scene.root, objective={"kl_coef": 0.1})
    anchored.freeze_reference(2, step=11)
    assert anchored.needed(fresh) == {2}
    assert asked == [8, 10, 7]


def test_a_reference_that_is_gone_is_a_mistake_in_the_configuration(tmp_path: Path):
    scene = Scene(tmp_path)
    scene.publish(1)
    anchored = behaviour(tmp_path, scene.root, objective={"kl_coef": 0.1})
    with pytest.raises(SettingsError, match=r"kl_coef = 0.1: version 5, the reference, cannot be read"):
        anchored.freeze_reference(5, step=3)
