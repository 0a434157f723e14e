"""Adapters on one rank, against transformers in float64 with W + s B A in place of every adapted weight W."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from transformers import AutoConfig, AutoModelForCausalLM

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig, ParallelConfig
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Exporter
from learner.megatron.model.lora import matrices
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks, start
from learner.megatron.training.trainer import Trainer
from learner.megatron.training.update_meter import optimizer_parts
from learner.objectives.policy_gradient import Reinforce

pytestmark = pytest.mark.filterwarnings("ignore")  # megatron warns of its own doings

SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}  # fmt: skip
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CASES: dict[str, dict[str, Any]] = {  # the model's type, its sizes, settings of the learner
    "all": {"kind": "qwen2", "lora": {"rank": 4, "alpha": 6}},
    "some, computed again": {
        "kind": "llama", "lora": {"rank": 3, "alpha": 3, "targets": ["v_proj", "q_proj", "up_proj"]}, "recompute": "full",
        "sizes": {"tie_word_embeddings": True, "attention_bias": True},
    },
    "rebuilt": {"kind": "qwen3", "lora": {"rank": 2, "alpha": 1}, "recompute": "selective"},
    "mixture": {"kind": "qwen3_moe", "lora": {"rank": 4, "alpha": 8, "targets": ATTENTION}, "sizes": MIXTURE},
}  # fmt: skip


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "1")
        alone = start(ParallelConfig(), 1, 60, HashStore())
        yield alone
        alone.stop()


@dataclass(frozen=True)
class Adapted:
    """A model with adapters that have been trained a little, and a step at a learning rate of zero.

    Attributes:
        directory: the model without adapters.
        adapters: the matrices, by the names that peft has for them.
        loss: of the step.
        gradients: of every matrix.
        before: what is published before the first step, B being zero.
        after: what is published after it.
        moments: bytes of Adam's moments.
    """

    directory: Path
    policy: Policy
    config: LearnerConfig
    batch: Batch
    adapters: dict[str, Tensor]
    loss: float
    gradients: dict[str, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    moments: int


@pytest.fixture(scope="module", params=CASES)
def adapted(request: pytest.FixtureRequest, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    case = CASES[request.param]
    directory = tmp_path_factory.mktemp("model")
    _save(directory, case["kind"], case.get("sizes", {}))
    config = settings(directory, lora=case["lora"], recompute=case.get("recompute", "none"))
    policy, batch = load_policy(directory, ranks, config), pack(_sequences(), Layout())
    merged, adapters = Exporter(policy, ranks), Exporter(policy, ranks, form="adapter")
    before = {name: tensor.clone() for name, tensor in merged.begin().shard()}
    trainer = Trainer(policy, config.optimizer, ranks)
    for _ in range(2):
        trainer.train_step(batch, Reinforce(), 0.02)
    matrices = {name: tensor.clone() for name, tensor in adapters.begin().shard()}
    loss = trainer.train_step(batch, Reinforce(), 0.0).loss
    gradients = {name: tensor.clone() for name, tensor in adapters.begin(field="main_grad").shard()}
    after = {name: tensor.clone() for name, tensor in merged.begin().shard()}
    states = [state for part in optimizer_parts(trainer.optimizer) for state in part.optimizer.state.values()]
    moments = sum(tensor.nbytes for state in states for name, tensor in state.items() if name.startswith("exp_avg"))
    return Adapted(directory, policy, config, batch, matrices, loss, gradients, before, after, moments)


def test_loss_and_gradients_are_those_of_transformers_with_the_products_added(adapted: Adapted):
    loss, gradients = _reference(adapted)
    assert adapted.loss == pytest.approx(loss, rel=1e-6)
    assert adapted.gradients.keys() == gradients.keys() == adapted.adapters.keys()
    assert {
        name: error
        for name, tensor in gradients.items()
        if (error := _distance(adapted.gradients[name], tensor)) > 1e-5
    } == {}


def test_before_the_first_step_what_is_published_is_the_model_bit_for_bit(adapted: Adapted):
    loaded = load_file(adapted.directory / "model.safetensors")
    assert loaded.keys() == adapted.before.keys()
    assert all(torch.equal(_bits(loaded[name]), _bits(tensor)) for name, tensor in adapted.before.items())
    assert any((tensor == 0).any() and (_bits(tensor) != 0).any() for tensor in loaded.values()), (
        "a zero below zero too"
    )


def test_what_is_published_afterwards_has_the_products_added(adapted: Adapted):
    loaded = load_file(adapted.directory / "model.safetensors")
    scaling, changed = adapted.config.lora.scaling, set()  # pyright: ignore[reportOptionalMemberAccess]
    for name, weight in loaded.items():
        path = "base_model.model." + name.removesuffix(".weight")
        second = adapted.adapters.get(f"{path}.lora_B.weight")
        if second is None:
            assert torch.equal(adapted.after[name], weight), name
            continue
        changed.add(name.split(".")[-2])
        expected = weight.double() + scaling * second.double() @ adapted.adapters[f"{path}.lora_A.weight"].double()
        torch.testing.assert_close(adapted.after[name].double(), expected, atol=1e-6, rtol=0)
        assert not torch.equal(adapted.after[name], weight)
    assert changed == set(adapted.config.lora.targets)  # pyright: ignore[reportOptionalMemberAccess]


def test_only_adapters_have_gradients_and_a_state_of_the_optimizer(adapted: Adapted):
    numbers = sum(tensor.numel() for tensor in adapted.adapters.values())
    (chunk,) = adapted.policy.chunks
    buffers = [*chunk.buffers, *chunk.expert_parallel_buffers]  # pyright: ignore[reportGeneralTypeIssues]
    assert sum(parameter.numel() for buffer in buffers for parameter in buffer.params) == numbers
    assert sum(buffer.grad_data.nbytes for buffer in buffers) < 4 * numbers + 4096, "megatron pads it"
    assert adapted.moments == 8 * numbers
    assert all(parameter.grad is None for parameter in chunk.module.parameters())
    trained = {id(matrix.parameter) for matrix in matrices(adapted.policy.models)}
    assert {id(parameter) for parameter in chunk.module.parameters() if parameter.requires_grad} == trained


def settings(directory: Path, **changes: Any) -> LearnerConfig:
    return LearnerConfig.parse(
        {
            "model": directory, "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused",
            "checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "optimizer": {"clip_grad": 1e9}, **changes,
        },
        source="test",
    )  # fmt: skip


def _save(directory: Path, kind: str, changes: dict[str, Any]) -> None:
    """Saves a model whose weights, norms and biases are as large as trained ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **changes})).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
            parameter.flatten()[:1] = -0.0
    model.save_pretrained(directory)


def _sequences() -> list[Sequence]:
    generator = torch.Generator().manual_seed(1)
    return [
        Sequence(
            torch.randint(SIZES["vocab_size"], (length,), generator=generator), torch.arange(length) > 2, sign, 1.0
        )
        for length, sign in zip((41, 23, 7), (1.0, -0.5, 0.75), strict=True)
    ]


def _reference(adapted: Adapted) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients in float64; the weights are functions of the matrices."""
    plain: Any = {"dtype": torch.float64, "experts_implementation": "eager"}
    model: Any = AutoModelForCausalLM.from_pretrained(adapted.directory, **plain)
    lora, own = (
        adapted.config.lora,
        {name: tensor.double().requires_grad_() for name, tensor in adapted.adapters.items()},
    )
    assert lora is not None
    replaced: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        path = "base_model.model." + name.removesuffix(".weight")
        if f"{path}.lora_A.weight" in own:
            first, second = own[f"{path}.lora_A.weight"], own[f"{path}.lora_B.weight"]
            replaced[name] = weight.detach() + lora.alpha / lora.rank * second @ first
    total = torch.zeros((), dtype=torch.float64)
    for one in _sequences():
        logits = torch.func.functional_call(model, replaced, (one.tokens[None],)).logits
        logp = torch.log_softmax(logits[0, :-1], -1)
        total = total - one.advantage * one.weight * logp.gather(1, one.tokens[1:, None])[one.generated[1:]].mean()
    found = torch.autograd.grad(total, list(own.values()))
    return total.item(), dict(zip(own, found, strict=True))


def _distance(mine: Tensor, theirs: Tensor) -> float:
    return ((mine.double() - theirs).norm() / theirs.norm()).item()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)
