"""Published versions: a sound one passes; each kind of damage is refused with the field and what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from leeway.v1 import rollout_pb2
from rollout.data.demo_model import DemoShape, write_model
from rollout.versions.manifest import VersionError
from rollout.versions.verifier import Verifier
from tests.tools.published import flip, publish, write_manifest

SMALL = DemoShape(layers=1, hidden=32, ffn=32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", 0, SMALL)
    return tmp_path / "model"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """Other weights of the same architecture."""
    write_model(tmp_path / "newer", 1, SMALL)
    return tmp_path / "newer"


def refusal(model: Path, policy: rollout_pb2.Policy) -> VersionError:
    with pytest.raises(VersionError) as error:
        Verifier(model, ["file:///"]).verify(policy)
    return error.value


def test_a_sound_version_passes(model: Path, newer: Path, tmp_path: Path):
    version = Verifier(model, ["file:///"]).verify(publish(newer, tmp_path, 3))
    assert (version.number, version.path) == (3, tmp_path / "weight_v000003")


def test_a_space_in_the_path_survives_the_uri(model: Path, newer: Path, tmp_path: Path):
    policy = publish(newer, tmp_path / "a b", 0)
    assert "a%20b" in policy.uri
    assert Verifier(model, ["file:///"]).verify(policy).path == tmp_path / "a b/weight_v000000"


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda d: flip(d / "model.safetensors"), "files[model.safetensors].digest"),
        (lambda d: (d / "model.safetensors").write_bytes(b"cut"), "files[model.safetensors].size"),
        (lambda d: (d / "tokenizer.json").unlink(), "files[tokenizer.json]"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json"),
        (lambda d: flip(d / "manifest.json"), "manifest.json sha256"),
    ],
)
def test_damage_after_publication_is_refused(
    model: Path, newer: Path, tmp_path: Path, damage: Callable[[Path], None], field: str
):
    policy = publish(newer, tmp_path, 1)
    damage(tmp_path / "weight_v000001")
    assert refusal(model, policy).field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"schema": 1}, "manifest.schema"),
        ({"schema": 3}, "manifest.schema"),
        ({"version": 9}, "manifest.version"),
        ({"base_version": 0}, "manifest.base_version"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    model: Path, newer: Path, tmp_path: Path, fields: dict[str, int], field: str
):
    publish(newer, tmp_path, 1)
    policy = write_manifest(tmp_path / "weight_v000001", 1, changes=fields)
    assert refusal(model, policy).field == field


def test_a_digest_in_sha256_is_checked_too(model: Path, newer: Path, tmp_path: Path):
    publish(newer, tmp_path, 1)
    directory = tmp_path / "weight_v000001"
    digest = f"sha256:{hashlib.sha256((directory / 'model.safetensors').read_bytes()).hexdigest()}"
    policy = write_manifest(directory, 1, digests={"model.safetensors": digest})
    assert Verifier(model, ["file:///"]).verify(policy).number == 1
    flip(directory / "model.safetensors")
    error = refusal(model, policy)
    assert (error.field, error.value[:7]) == ("files[model.safetensors].digest", "sha256:")


@pytest.mark.parametrize("digest", ["md5:00", "", "blake3", "blake3:", "BLAKE3:00"])
def test_an_algorithm_that_is_not_known_is_named(model: Path, newer: Path, tmp_path: Path, digest: str):
    publish(newer, tmp_path, 1)
    policy = write_manifest(tmp_path / "weight_v000001", 1, digests={"model.safetensors": digest})
    error = refusal(model, policy)
    assert error.field == "files[model.safetensors].digest"
    if digest[:6] not in ("", "blake3"):
        assert f"algorithm {digest.partition(':')[0]!r} is not known, only blake3 and sha256" in error.value


def _edit_tensors(directory: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda t: t.pop("lm_head.weight"), "tensors[lm_head.weight]"),
        (lambda t: t.update(extra=np.zeros(1, np.float32)), "tensors[extra]"),
        (lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)}), "tensors[model.norm.weight].shape"),
    ],
)
def test_other_tensors_than_the_initial_models_are_refused(
    model: Path, newer: Path, tmp_path: Path, edit: Callable[[dict[str, np.ndarray]], None], field: str
):
    publish(newer, tmp_path, 1)
    _edit_tensors(tmp_path / "weight_v000001", edit)
    assert refusal(model, write_manifest(tmp_path / "weight_v000001", 1)).field == field


def test_another_architecture_is_refused_even_when_it_claims_ours(model: Path, tmp_path: Path):
    write_model(tmp_path / "deeper", 0, DemoShape(layers=2, hidden=32, ffn=32))
    assert refusal(model, publish(tmp_path / "deeper", tmp_path, 1)).field == "manifest.config_sha256"
    claimed = publish(tmp_path / "deeper", tmp_path, 2, config_of=model)
    assert refusal(model, claimed).field.startswith("tensors[model.layers.1.")


@pytest.mark.parametrize("uri", ["https://example.com/w", "s3://bucket/w", "file://otherhost/w", "/plain/path"])
def test_only_local_files_are_read(model: Path, uri: str):
    error = refusal(model, rollout_pb2.Policy(version=1, uri=uri))
    assert error.field == "policy.uri"
    assert uri in error.value


def test_a_name_that_leaves_the_directory_is_refused(model: Path, newer: Path, tmp_path: Path):
    publish(newer, tmp_path, 1)
    directory = tmp_path / "weight_v000001"
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][0]["name"] = "../newer/config.json"
    content = json.dumps(manifest).encode()
    (directory / "manifest.json").write_bytes(content)
    policy = rollout_pb2.Policy(version=1, uri=directory.as_uri(), manifest_sha256=hashlib.sha256(content).hexdigest())
    assert refusal(model, policy).field == "files[../newer/config.json]"


def test_a_model_directory_without_weights_is_named(tmp_path: Path):
    with pytest.raises(VersionError, match=r"config\.json: cannot be read"):
        Verifier(tmp_path, ["file:///"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(VersionError, match=r"holds no \*\.safetensors"):
        Verifier(tmp_path, ["file:///"])
