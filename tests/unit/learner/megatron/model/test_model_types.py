"""Model types and their variants on one rank, against transformers in float64; exported, they are what was loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from transformers import AutoConfig, AutoModelForCausalLM

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig, ParallelConfig
from learner.config.model_types import MODEL_TYPES
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Exporter
from learner.megatron.model.packed_model import Policy
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.parallel import Ranks, start
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import Trainer
from learner.objectives.policy_gradient import Reinforce
from runtime.version_format.wide_tensors import is_wide

pytestmark = pytest.mark.filterwarnings("ignore")  # megatron warns of its own doings

SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}  # fmt: skip
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
SIGMOID: dict[str, Any] = {
    "n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "first_k_dense_replace": 1, "norm_topk_prob": True,
}  # fmt: skip
LATENT: dict[str, Any] = {
    **SIGMOID, "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, "num_key_value_heads": 4, "head_dim": 8,
    "q_lora_rank": None, "kv_lora_rank": 20, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
MODELS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "mistral yarn with magnitudes": {"sliding_window": 64, "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
    "ministral": {"sliding_window": 64, "rope_parameters": LINEAR},  # transformers runs none without a window
    "ministral layers of both kinds": {
        "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": True,
    },
    "llama biases": {"attention_bias": True, "rope_parameters": LINEAR},
    "qwen2 yarn": {"rope_parameters": YARN | {"truncate": False, "beta_fast": 8}},
    "qwen3 biases, yarn with a factor": {"attention_bias": True, "rope_parameters": YARN | {"attention_factor": 1.4}},
    "qwen3_moe biases": {**MIXTURE, "attention_bias": True},
    "glm4_moe Air": {**SIGMOID, "attention_bias": True, "routed_scaling_factor": 1.0},
    "glm4_moe norms, scaled, yarn": {
        **SIGMOID, "use_qk_norm": True, "routed_scaling_factor": 2.5, "rope_parameters": YARN, "partial_rotary_factor": 0.75,
    },
    "deepseek_v3 Moonlight": {**LATENT, "routed_scaling_factor": 2.446, "rms_norm_eps": 1e-5},
    "deepseek_v3 latent queries, groups, biases, yarn with magnitudes": {
        **LATENT, "q_lora_rank": 14, "n_routed_experts": 12, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
        "attention_bias": True, "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    },
    "deepseek_v3 halves": {**LATENT, "q_lora_rank": 14, "rope_interleave": False, "v_head_dim": 24},
    "kimi_k2": {**LATENT, "q_lora_rank": 14, "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}},
}  # fmt: skip
LENGTHS = (41, 23, 7)  # in the order in which a row has them


@dataclass(frozen=True)
class Trained:
    """One step with a learning rate of zero, and its reference.

    Attributes:
        loss: of the learner, and of transformers in float64.
        gradients: of the learner, and of transformers, by the names that files have.
        logits: of the learner, [tokens that carry loss, V], and of transformers in float32 after the export.
        files: tensors of the model's directory, and of the export.
        rounded: an export in bfloat16; and the dtypes of a copy of the same, which recomputed log-probabilities are of.
    """

    loss: tuple[float, float]
    gradients: tuple[dict[str, Tensor], dict[str, Tensor]]
    logits: tuple[Tensor, Tensor]
    files: tuple[dict[str, Tensor], dict[str, Tensor]]
    rounded: tuple[dict[str, Tensor], list[torch.dtype]]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "1")
        alone = start(ParallelConfig(), 1, 60, HashStore())
        yield alone
        alone.stop()


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory, exported = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("exported")
    _save(directory, request.param.split()[0], MODELS[request.param])
    config = LearnerConfig.parse(
        {
            "model": directory, "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused",
            "checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "optimizer": {"clip_grad": 1e9},
        },
        source="test",
    )  # fmt: skip
    policy, sequences = load_policy(directory, ranks, config), _sequences()
    batch = pack(sequences, Layout())
    stats = Trainer(policy, config.optimizer, ranks).train_step(batch, Reinforce(), 0.0)
    assert stats.skipped is None
    exporter = Exporter(policy, ranks)
    gradients = {name: tensor.clone() for name, tensor in exporter.begin(field="main_grad").shard()}
    save_file({name: tensor.clone() for name, tensor in exporter.begin().shard()}, exported / "model.safetensors")
    shutil.copy(directory / "config.json", exported)
    rounded = {name: tensor.clone() for name, tensor in Exporter(policy, ranks, "bfloat16").begin().shard()}
    copied = [tensor.dtype for tensor in Scorer(policy, ranks, "bfloat16").snapshot()]
    loss, expected = _reference(directory, sequences)
    return Trained(
        (stats.loss, loss),
        (gradients, expected),
        (_logits(policy, batch), _expected_logits(exported, sequences)),
        (load_file(directory / "model.safetensors"), load_file(exported / "model.safetensors")),
        (rounded, copied),
    )


def test_loss_and_gradients_are_those_of_transformers(trained: Trained):
    assert trained.loss[0] == pytest.approx(trained.loss[1], rel=1e-6, abs=1e-6)  # of the loss where it is above 1
    mine, theirs = trained.gradients
    assert mine.keys() == theirs.keys()
    assert {name: error for name in mine if (error := _distance(mine[name], theirs[name])) > 1e-5} == {}


def test_an_export_is_what_was_loaded_bit_for_bit(trained: Trained):
    before, after = trained.files
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_correction_bias_is_published_in_float32_whatever_the_dtype(trained: Trained):
    loaded, (rounded, copied) = trained.files[0], trained.rounded
    wide = {name for name in rounded if is_wide(name)}
    assert {name for name, tensor in rounded.items() if tensor.dtype == torch.float32} == wide
    assert all(torch.equal(rounded[name], loaded[name]) for name in wide)
    assert copied.count(torch.float32) == len(wide)


def test_transformers_computes_the_same_logits_of_an_export(trained: Trained):
    mine, theirs = trained.logits
    assert (mine - theirs).abs().max() < 1e-4


def test_every_new_type_is_tried_here():
    assert {name.split()[0] for name in MODELS} | {"mistral", "ministral"} == MODEL_TYPES.keys()


def _save(directory: Path, kind: str, changes: dict[str, Any]) -> None:
    """Saves a model whose weights, norms and biases are as large as trained ones."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(MODEL_TYPES[kind].alias_of or kind, **{**SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in (*model.parameters(), *_correction_biases(model)):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))


def _load(directory: Path, **options: Any) -> Any:
    """Loads a model into transformers, under the type that it knows."""
    values = json.loads((directory / "config.json").read_text())
    kind = values.pop("model_type")
    config = AutoConfig.for_model(MODEL_TYPES[kind].alias_of or kind, **values)
    return AutoModelForCausalLM.from_pretrained(directory, config=config, **options)


def _correction_biases(model: Any) -> list[Tensor]:
    """Buffers of transformers, which are no parameters: experts are chosen with them, and no gradient reaches them."""
    return [tensor for name, tensor in model.named_buffers() if name.endswith("e_score_correction_bias")]


def _sequences() -> list[Sequence]:
    generator = torch.Generator().manual_seed(1)
    return [
        Sequence(
            torch.randint(SIZES["vocab_size"], (length,), generator=generator), torch.arange(length) > 2, sign, 1.0
        )
        for length, sign in zip(LENGTHS, (1.0, -0.5, 0.75), strict=True)
    ]


def _reference(directory: Path, sequences: list[Sequence]) -> tuple[float, dict[str, Tensor]]:
    plain: Any = {"dtype": torch.float64, "experts_implementation": "eager"}  # grouped kernels know no float64
    model = _load(directory, **plain)
    total = torch.zeros((), dtype=torch.float64)
    for one in sequences:
        logp = torch.log_softmax(model(one.tokens[None]).logits[0, :-1], -1)
        chosen = logp.gather(1, one.tokens[1:, None])[one.generated[1:]]
        total = total - one.advantage * one.weight * chosen.mean()
    total.backward()
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        layer, _, rest = name.rpartition(".experts.")
        names = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(rest if layer else "")
        if names is None:
            found[name] = parameter.grad
            continue
        for number, expert in enumerate(parameter.grad):
            halves = zip(names, expert.chunk(len(names)), strict=True)
            found |= {f"{layer}.experts.{number}.{half}.weight": tensor for half, tensor in halves}
    return total.item(), found


@torch.no_grad()
def _logits(policy: Policy, batch: Batch) -> Tensor:
    (row,) = batch.micro_batches
    packed = PackedRow.of(row, policy.rotary, policy.dtype, torch.device("cpu"), kernels=policy.kernels)
    (model,) = policy.models
    return model(row.tokens, row.positions, packed) @ model.head.T


@torch.no_grad()
def _expected_logits(directory: Path, sequences: list[Sequence]) -> Tensor:
    model = _load(directory, dtype=torch.float32)
    return torch.cat([model(one.tokens[None]).logits[0, :-1][one.generated[1:]] for one in sequences])


def _distance(mine: Tensor, theirs: Tensor) -> float:
    return ((mine.double() - theirs).norm() / theirs.norm()).item()
