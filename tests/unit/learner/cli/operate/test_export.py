"""`leeway export`: what it writes is the version, bit for bit, and loads in transformers; or nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.operate import merged_file
from learner.cli.operate.export import chosen_version, export
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.publish.catalog import CatalogError
from leeway.v1 import manifest_pb2
from rollout.data.demo_model import write_model
from tests.tools.adapters import LORA, merge, publish_adapter
from tests.tools.lively_run import evaluation
from tests.tools.published import flip, write_manifest
from tests.tools.runs import DEMO, write_rows

Weights = dict[str, np.ndarray]
META = {"format": "pt"}


class Chain:
    """A run with a full version 3 in two files, and deltas 4 and 5 of it."""

    def __init__(self, root: Path) -> None:
        self.model = root / "model"
        write_model(self.model, seed=3, tools=True)
        (self.model / "tokenizer.model").write_bytes(b"pieces")
        run_file = RunFile.read(DEMO, [f"run.dir={root / 'run'}", f"model.path={self.model}"])
        self.run = run_file.directory
        self.run.create()
        run_file.absolute().write(self.run.settings)
        self.weights: Weights = load_file(self.model / "model.safetensors")
        names = sorted(self.weights)
        self.parts = {"model-00000.safetensors": names[:9], "model-00001.safetensors": names[9:]}
        self._full(3)
        draw = np.random.default_rng(0)
        for version in (4, 5):
            self._delta(version, draw)

    def directory(self, version: int) -> Path:
        return self.run.weights / f"weight_v{version:06d}"

    def _full(self, version: int) -> None:
        directory = self.directory(version)
        directory.mkdir()
        for name, tensors in self.parts.items():
            save_file({tensor: self.weights[tensor] for tensor in tensors}, directory / name, META)
        index = {tensor: name for name, tensors in self.parts.items() for tensor in tensors}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        for path in self.model.iterdir():
            if path.suffix in (".json", ".jinja"):
                shutil.copyfile(path, directory / path.name)
        write_manifest(directory, version)

    def _delta(self, version: int, draw: np.random.Generator) -> None:
        """One tensor of each file changes in three elements, the norm as a whole."""
        directory = self.directory(version)
        directory.mkdir()
        results = []
        for number, (name, tensors) in enumerate(self.parts.items()):
            matrix = next(tensor for tensor in tensors if self.weights[tensor].ndim == 2)
            norm = next(tensor for tensor in tensors if self.weights[tensor].ndim == 1)
            indices = np.sort(draw.choice(self.weights[matrix].size, 3, replace=False))
            values = draw.standard_normal(3).astype(np.float32)
            self.weights[matrix].reshape(-1)[indices] = values
            self.weights[norm] = draw.standard_normal(self.weights[norm].shape).astype(np.float32)
            gaps = np.diff(indices, prepend=0).astype(np.uint32)
            stored = {f"{matrix}#gaps": gaps, f"{matrix}#values": values, norm: self.weights[norm]}
            save_file(stored, directory / f"delta-{number:05d}.safetensors", META)
            full = directory.parent / f"whole-{name}"
            save_file({tensor: self.weights[tensor] for tensor in tensors}, full, META)
            digest = f"blake3:{blake3(full.read_bytes()).hexdigest()}"
            results.append(manifest_pb2.ManifestFile(name=name, size=full.stat().st_size, digest=digest))
            full.unlink()
        changes: dict = {"base_version": version - 1, "results": results}
        write_manifest(directory, version, self.directory(3), changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain(made: Chain, tmp_path: Path) -> Chain:
    """A copy that the test may damage."""
    copy = Chain.__new__(Chain)
    copy.model, copy.weights, copy.parts = made.model, made.weights, made.parts
    shutil.copytree(made.run.root, tmp_path / "run")
    copy.run = RunDirectory.existing(tmp_path / "run")
    return copy


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto").state_dict()


def test_a_chain_of_deltas_loads_in_transformers_bit_for_bit(made: Chain, tmp_path: Path):
    target = tmp_path / "deep" / "model"
    done = export(made.run, "last", target)
    assert (done.version, done.step, done.chain, done.dtype) == (5, 5, [3, 4, 5], "float32")
    loaded = tensors(target)
    assert set(loaded) == set(made.weights)
    for name, expected in made.weights.items():
        assert loaded[name].dtype == torch.float32
        assert np.array_equal(loaded[name].numpy().view(np.uint32), expected.view(np.uint32)), name
    assert done.size == sum(path.stat().st_size for path in target.iterdir())
    assert done.files == sorted(path.name for path in target.iterdir())


def test_tokenizer_template_and_generation_settings_come_along(made: Chain, tmp_path: Path):
    target = tmp_path / "model"
    target.mkdir()  # an empty directory may be there
    export(made.run, "3", target)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (target / name).read_bytes() == (made.model / name).read_bytes()
    assert (target / "tokenizer.model").read_bytes() == b"pieces"  # versions lack it, the run's model has it
    tokenizer = AutoTokenizer.from_pretrained(target)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "12"}], tokenize=False)
    assert text == "<|user|>12<eos>"
    assert not (target / "manifest.json").exists()


def test_another_dtype_is_rounded_as_torch_rounds(made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merged_file, "_PIECE", 1000)  # tensors of several pieces, the last one shorter
    target = tmp_path / "model"
    assert export(made.run, "5", target, "bfloat16").dtype == "bfloat16"
    assert json.loads((target / "config.json").read_text())["torch_dtype"] == "bfloat16"
    loaded = tensors(target)
    for name, expected in made.weights.items():
        assert torch.equal(loaded[name], torch.from_numpy(expected).bfloat16()), name


def test_an_adapter_is_exported_as_the_model_that_it_makes(made: Chain, chain: Chain, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(made.model, base)
    publish_adapter(base, chain.run.weights, 6, LORA)
    target = tmp_path / "out"
    done = export(chain.run, "6", target)
    adapters = list(load_torch(chain.directory(6) / "adapter_model.safetensors").items())
    for name, expected in merge(base, adapters, LORA, torch.float32).items():
        assert torch.equal(tensors(target)[name], expected), name
    assert {"config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"} <= set(done.files)
    assert not [name for name in done.files if name.startswith("adapter")]
    flip(base / "model.safetensors")
    publish_adapter(base, chain.run.weights, 7, LORA)  # of another model than the run's
    with pytest.raises(CatalogError, match=r"version 7: its base \S+ has the weights blake3:\w+, expected blake3:"):
        export(chain.run, "7", tmp_path / "again")


def test_an_adapter_is_exported_on_the_runs_model_where_the_one_it_names_is_gone(chain: Chain, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(chain.model, elsewhere)
    publish_adapter(elsewhere, chain.run.weights, 6, LORA)
    shutil.rmtree(elsewhere)  # as after a restore, or on another machine
    export(chain.run, "6", tmp_path / "out")
    adapters = list(load_torch(chain.directory(6) / "adapter_model.safetensors").items())
    for name, expected in merge(chain.model, adapters, LORA, torch.float32).items():
        assert torch.equal(tensors(tmp_path / "out")[name], expected), name


def test_a_damaged_file_is_named_and_nothing_is_left(chain: Chain, tmp_path: Path):
    flip(chain.directory(3) / "model-00001.safetensors")
    with pytest.raises(CatalogError, match=r"version 3: model-00001\.safetensors: digest"):
        export(chain.run, "5", tmp_path / "out" / "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_deltas_that_do_not_give_their_digest_are_refused_and_nothing_is_left(
    chain: Chain, tmp_path: Path, dtype: str | None
):
    """Another delta with a manifest of its own, so that only the result shows it."""
    directory = chain.directory(5)
    values = load_file(directory / "delta-00000.safetensors")
    values = {name: value + 1 if name.endswith("#values") else value for name, value in values.items()}
    save_file(values, directory / "delta-00000.safetensors", META)
    results = list(manifest_of(directory).results)
    changes: dict = {"base_version": 4, "results": results}
    write_manifest(directory, 5, chain.directory(3), changes)
    with pytest.raises(CatalogError, match=r"model-00000\.safetensors: its deltas do not give"):
        export(chain.run, "5", tmp_path / "out" / "model", dtype)
    assert list((tmp_path / "out").iterdir()) == []


def manifest_of(directory: Path) -> manifest_pb2.Manifest:
    from google.protobuf import json_format

    return json_format.Parse((directory / "manifest.json").read_text(), manifest_pb2.Manifest())


def test_a_directory_that_is_not_empty_is_left_alone(made: Chain, tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    for target in (tmp_path, tmp_path / "mine"):
        with pytest.raises(RunError, match="exists and is not an empty directory"):
            export(made.run, "last", target)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_disk_with_too_little_room_is_noticed_before_anything_is_written(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match=r"bytes are needed, and its disk has 1,000 left"):
        export(made.run, "last", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_chosen_by_number_by_age_or_by_evaluation(chain: Chain):
    assert chosen_version(chain.run, "last") == 5
    assert chosen_version(chain.run, "4") == 4
    for choice, message in (("best", "has no evaluations"), ("7", "version 7 is not on disk.*there are 3, 4, 5"),
                            ("newest", "expected best, last or the number")):  # fmt: skip
        with pytest.raises(RunError, match=message):
            chosen_version(chain.run, choice)
    rows = [evaluation(version, "sort", "greedy", value, 0.1) for version, value in ((3, 0.1), (4, 0.9), (5, 0.8))]
    write_rows(chain.run.metrics / "evaluations.jsonl", rows)
    write_rows(chain.run.metrics / "evaluations.jsonl", [evaluation(5, "other", "greedy", 0.99, 0.0, time=0.0)])
    assert chosen_version(chain.run, "best") == 4  # by the metric that the run's [eval] names
    write_rows(chain.run.metrics / "evaluations.jsonl", [evaluation(2, "sort", "greedy", 0.95, 0.1)])
    with pytest.raises(RunError, match="version 2 is not on disk"):
        chosen_version(chain.run, "best")


def test_the_command_says_what_it_wrote_and_how_to_load_it(made: Chain, tmp_path: Path):
    target = tmp_path / "model"
    result = CliRunner().invoke(app, ["export", str(made.run.root), str(target), "--version", "4"])
    assert result.exit_code == 0, result.output
    assert "version 4 (step 4; built from versions 3, 4)" in result.output
    assert f"from_pretrained('{target}')" in result.output
    again = CliRunner().invoke(app, ["export", str(made.run.root), str(target)])
    assert again.exit_code == 2
    assert "not an empty directory" in again.output
    wrong = CliRunner().invoke(app, ["export", str(made.run.root), str(tmp_path / "b"), "--dtype", "int8"])
    assert wrong.exit_code == 2
    assert "expected float32 or bfloat16" in wrong.output
