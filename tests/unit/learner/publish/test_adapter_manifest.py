"""Adapter versions: PEFT's files, digests of these and of the base; learner and worker read the same full version of them."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.publish import reader, verified
from learner.publish.catalog import CatalogError, read_manifest
from learner.publish.verified import VerifiedVersions
from rollout.versions.manifest import VersionError
from rollout.versions.verifier import Verifier
from runtime.version_format.base_digest import weights_digest
from tests.tools.adapters import AdapterScene
from tests.tools.published import flip
from tests.tools.publishing import ready

pytestmark = pytest.mark.usefixtures("process_group")


def change_base(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, model / "model.safetensors")


def test_a_version_is_pefts_two_files_and_a_manifest_that_tells_the_truth(tmp_path: Path):
    scene = AdapterScene(tmp_path, url=(tmp_path / "store").as_uri())
    scene.publish(2)
    directory = scene.directory(1)
    assert {path.name for path in directory.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "manifest.json")
    }
    stored = load_file(directory / "adapter_model.safetensors")
    assert stored.keys() == dict(scene.history[1]).keys()
    for name, expected in scene.history[1]:
        assert torch.equal(stored[name], expected), name
    config = json.loads((directory / "adapter_config.json").read_text())
    wanted = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "bias": "none"}
    assert {name: config[name] for name in wanted} == wanted
    assert config["target_modules"] == ["q_proj", "v_proj", "down_proj"]
    assert config["base_model_name_or_path"] == str(scene.model)
    manifest = read_manifest(scene.root, 1)
    adapter = manifest.adapter
    assert (adapter.rank, adapter.alpha, list(adapter.targets)) == (3, 6.0, ["q_proj", "v_proj", "down_proj"])
    assert adapter.base == weights_digest(scene.model)
    assert [file.name for file in manifest.files] == ["adapter_model.safetensors", "adapter_config.json"]
    assert sum(file.size for file in manifest.files) < (scene.model / "model.safetensors").stat().st_size / 4
    copy = tmp_path / "store" / "weight_v000001"
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in directory.iterdir()
    }


@pytest.mark.parametrize(
    ("dtype", "base"), [("float32", torch.float32), ("bfloat16", torch.float32), ("bfloat16", torch.float16)]
)
def test_learner_and_worker_read_the_same_full_version(
    tmp_path: Path, dtype: Literal["float32", "bfloat16"], base: torch.dtype
):
    scene = AdapterScene(tmp_path, dtype, base=base)
    scene.publish(2)
    verifier = Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache")
    source = VerifiedVersions(scene.root, scene.model).open(1)
    found = verifier.verify(scene.registry.policies[1])
    assert found.adapter is None
    loaded = load_file(found.path / "model.safetensors")
    expected = scene.merged(1)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
        assert torch.equal(source.read(name, tuple(tensor.shape)), tensor), name
    assert (found.path / "config.json").read_bytes() == (scene.model / "config.json").read_bytes()
    assert (found.path / "tokenizer.json").is_file()


def test_a_version_is_merged_once_and_again_when_it_is_damaged(tmp_path: Path):
    scene = AdapterScene(tmp_path)
    scene.publish(1)
    policy = scene.registry.policies[0]
    path = Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache").verify(policy).path
    first = (path / "model.safetensors").stat().st_ino
    Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache").verify(policy)
    assert (path / "model.safetensors").stat().st_ino == first
    content = (path / "model.safetensors").read_bytes()
    flip(path / "model.safetensors")
    Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache").verify(policy)
    assert (path / "model.safetensors").read_bytes() == content


def test_engines_that_load_adapters_get_the_adapter_under_a_name_of_its_own(tmp_path: Path):
    scene = AdapterScene(tmp_path)
    scene.publish(2)
    verifier = Verifier(scene.model, [scene.root.as_uri()], merges=False)
    found = [verifier.verify(scene.registry.policies[number]) for number in (0, 1)]
    assert [one.path for one in found] == [scene.directory(0), scene.directory(1)]
    names = [one.adapter or "" for one in found]
    assert names[0].startswith("leeway-0-")
    assert names[1].startswith("leeway-1-")


def test_another_base_is_refused_with_both_digests(tmp_path: Path):
    scene = AdapterScene(tmp_path)
    scene.publish(1)
    base = weights_digest(scene.model)
    change_base(scene.model)
    with pytest.raises(VersionError) as error:
        Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache").verify(scene.registry.policies[0])
    assert error.value.field == "manifest.adapter.base"
    problem = VerifiedVersions(scene.root, scene.model).problem(0) or ""
    for digest in (base, weights_digest(scene.model)):
        assert digest in error.value.value
        assert digest in problem


def test_a_base_that_the_disk_does_not_give_is_read_again_and_a_wrong_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scene = AdapterScene(tmp_path)
    scene.publish(2)
    versions = VerifiedVersions(scene.root, scene.model)

    def stale(model: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(model))

    with monkeypatch.context() as disk:
        disk.setattr(reader, "weights_digest", stale)
        assert re.search(r"its base \S+ cannot be read now.*Stale file handle", versions.problem(0) or "")
        assert versions.may_pass(0)
        disk.setattr(verified, "_RETRY_S", 0.0)
        assert versions.problem(1) is not None
    assert versions.problem(0) is not None, "its minute is not over"
    assert versions.problem(1) is None
    change_base(scene.model)
    versions = VerifiedVersions(scene.root, scene.model)
    assert "expected blake3:" in (versions.problem(0) or "")
    assert not versions.may_pass(0)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_file_is_refused_by_both(tmp_path: Path, name: str):
    scene = AdapterScene(tmp_path)
    scene.publish(1)
    flip(scene.directory(0) / name)
    with pytest.raises(CatalogError, match=f"{name}"):
        VerifiedVersions(scene.root, scene.model).open(0)
    with pytest.raises(VersionError) as error:
        Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache").verify(scene.registry.policies[0])
    assert error.value.field == f"files[{name}].digest"
    assert not (tmp_path / "cache" / "weight_v000000").exists()


def test_adapters_of_another_model_are_refused(tmp_path: Path):
    scene = AdapterScene(tmp_path)
    scene.history.append([])
    name = "base_model.model.model.layers.7.mlp.up_proj"
    foreign = [(f"{name}.lora_A.weight", torch.ones(3, 32)), (f"{name}.lora_B.weight", torch.ones(48, 3))]
    scene.publisher.publish(1, ready(foreign))
    scene.publisher.wait()
    with pytest.raises(VersionError, match=r"layers\.7\.mlp\.up_proj\.weight is no linear layer of the base"):
        Verifier(scene.model, [scene.root.as_uri()], tmp_path / "cache").verify(scene.registry.policies[0])
    with pytest.raises(CatalogError, match=r"layers\.7"):
        VerifiedVersions(scene.root).open(0)
