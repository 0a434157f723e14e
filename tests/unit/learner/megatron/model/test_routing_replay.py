"""Replayed experts: the same ones change not a bit, others give what transformers gives in float64 with those experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from transformers import AutoModelForCausalLM, Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack, without_groups
from learner.batch.subset import select_tokens
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig, ParallelConfig
from learner.megatron.model.architecture import ModelError
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Exporter
from learner.megatron.model.packed_model import Policy
from learner.megatron.model.routing_replay import ReplayedRouter
from learner.megatron.parallel import Ranks, start
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import StepStats, Trainer
from learner.objectives.policy_gradient import Reinforce
from rollout.data.demo_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # megatron warns of its own doings

LAYERS, EXPERTS, CHOSEN = (0, 2), 6, 2
SHAPE: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": 24, "mlp_only_layers": [1],
    "tie_word_embeddings": False,
}  # fmt: skip
LENGTHS = (21, 13, 6)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "1")
        alone = start(ParallelConfig(), 1, 60, HashStore())
        yield alone
        alone.stop()


@pytest.fixture(scope="module", params=[True, False], ids=["normalised", "softmax as it is"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**SHAPE, norm_topk_prob=request.param)).float()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.save_pretrained(directory)
    return directory


def settings(directory: Path, **more: Any) -> LearnerConfig:
    values = {
        "model": directory, "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused",
        "checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "optimizer": {"clip_grad": 1e9},
    }  # fmt: skip
    return LearnerConfig.parse(values | {"replay_routing": True} | more, source="test")


def sequences() -> list[Sequence]:
    draw = torch.Generator().manual_seed(3)
    return [
        Sequence(
            torch.randint(0, 48, (length,), generator=draw), torch.arange(length) >= 2, 1.0 - number, 0.4, 0.8,
            group=number,
        )
        for number, length in enumerate(LENGTHS)
    ]  # fmt: skip


def step(policy: Policy, config: LearnerConfig, ranks: Ranks, batch: Batch) -> tuple[StepStats, dict[str, Tensor]]:
    """One step with a learning rate of zero, and its gradients."""
    stats = Trainer(policy, config.optimizer, ranks).train_step(batch, Reinforce(), 0.0)
    assert stats.skipped is None
    exported = Exporter(policy, ranks).begin(field="main_grad")
    gradients = {name: tensor.clone() for name, tensor in exported.shard()}
    exported.release()
    return stats, gradients


class Reference:
    """Transformers in float64: sends tokens with a record to the recorded experts, the others where its routers want."""

    def __init__(self, directory: Path) -> None:
        plain = {"dtype": torch.float64, "experts_implementation": "eager", "attn_implementation": "eager"}
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, **plain)
        self.own: list[Tensor] = []  # [tokens, k] of each call of a router
        self.replayed: Tensor | None = None  # [tokens, layers, k] of the sequence
        routers = [module for module in self.model.modules() if isinstance(module, Qwen3MoeTopKRouter)]
        for index, router in enumerate(routers):
            router.register_forward_hook(lambda module, _, out, index=index: self._routed(module, index, out))

    def _routed(self, router: Any, layer: int, output: Any) -> tuple[Tensor, ...] | None:
        logits, _, own = output
        self.own.append(own)
        if self.replayed is None:
            return None
        recorded = self.replayed[:, layer].long()
        ids = torch.where(recorded < 0, own, recorded)
        weights = logits.double().softmax(-1).gather(1, ids)
        return logits, weights / weights.sum(-1, keepdim=True) if router.norm_topk_prob else weights, ids

    def choices(self, sequence: Sequence) -> Tensor:
        """What the routers choose of themselves: [tokens, layers, k]."""
        self.own, self.replayed = [], None
        with torch.no_grad():
            self.model(sequence.tokens[None])
        return torch.stack(self.own, 1)

    def logp(self, sequence: Sequence) -> Tensor:
        self.replayed = sequence.routed
        logits = self.model(sequence.tokens[None]).logits[0] / sequence.temperature
        targets = sequence.tokens[1:]
        return torch.log_softmax(logits[:-1], -1).gather(1, targets[:, None])[:, 0][sequence.generated[1:]]

    def trained(self, made: list[Sequence]) -> tuple[float, dict[str, Tensor]]:
        """Loss of REINFORCE and its gradients."""
        self.model.zero_grad()
        loss = torch.stack([-one.advantage * one.weight * self.logp(one).mean() for one in made]).sum()
        loss.backward()
        return loss.item(), {name: value.grad for name, value in self.model.named_parameters()}


def recorded(made: list[Sequence], choices: list[Tensor]) -> list[Sequence]:
    """The sequences with these experts in another order; none at the last token, and at the prompt of the second one."""
    result = []
    for number, (one, ids) in enumerate(zip(made, choices, strict=True)):
        routed = ids.flip(-1).to(torch.int16)
        routed[-1] = -1
        if number == 1:
            routed[:2] = -1
        result.append(replace(one, routed=routed))
    return result


def other_experts() -> list[Tensor]:
    draw = torch.Generator().manual_seed(8)
    return [torch.rand(length, len(LAYERS), EXPERTS, generator=draw).argsort(-1)[..., :CHOSEN] for length in LENGTHS]


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_experts_that_the_router_chooses_change_not_a_bit(model: Path, ranks: Ranks, recompute: str):
    config, reference = settings(model, recompute=recompute), Reference(model)
    made = sequences()
    same = recorded(made, [reference.choices(one) for one in made])
    policy = load_policy(model, ranks, settings(model, recompute=recompute, replay_routing=False))
    plain, expected = step(policy, config, ranks, pack(made, Layout()))
    assert plain.replay is None
    replayed, found = step(load_policy(model, ranks, config), config, ranks, pack(same, Layout()))
    assert replayed.loss == plain.loss
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    tokens, layers = sum(LENGTHS), len(LAYERS)
    assert replayed.replay is not None
    assert vars(replayed.replay) == {
        "tokens": tokens * layers, "replayed": (tokens - 5) * layers, "choices": (tokens - 5) * layers * CHOSEN,
        "differing": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("recompute", "micro_batches"), [("none", 1), ("full", 2)])
def test_other_experts_give_loss_and_gradients_of_an_independent_reference(
    model: Path, ranks: Ranks, recompute: str, micro_batches: int
):
    config, reference = settings(model, recompute=recompute), Reference(model)
    made = recorded(sequences(), other_experts())
    policy = load_policy(model, ranks, config)
    batch = pack(made, Layout(min_micro_batches=micro_batches))
    stats, gradients = step(policy, config, ranks, batch)
    loss, expected = reference.trained(made)
    assert stats.loss == pytest.approx(loss, abs=1e-6)
    errors = _distances(gradients, expected)
    assert {name: error for name, error in errors.items() if error > 1e-5} == {}
    assert max(_distances(gradients, reference.trained(sequences())[1]).values()) > 0.1  # it is another gradient
    assert stats.replay is not None
    assert stats.replay.differing == sum(_differing(reference, one) for one in made) > 0
    scored = torch.cat(Scorer(policy, ranks, "float32").score(batch))
    assert torch.allclose(scored, torch.cat(list(stats.logp)), atol=1e-6)  # log mu and the drift replay, too


def test_a_record_stays_with_its_tokens_when_a_batch_is_cut():
    made = recorded(sequences(), other_experts())
    layout = Layout(multiple=8, context=2)
    batch = pack(made, layout)
    without = without_groups(batch, {1}, layout)
    (kept,) = without.micro_batches
    assert kept.routed is not None
    assert torch.equal(kept.routed[kept.real], torch.cat([made[0].routed, made[2].routed]))  # type: ignore[list-item]
    assert bool((kept.routed[~kept.real] == -1).all())
    chosen = torch.zeros(len(batch.micro_batches[0].loss_row), dtype=torch.bool)
    chosen[3] = True  # the fourth loss token of the first sequence, its token 5
    found = select_tokens(batch, chosen, layout)
    assert found is not None
    (few,) = found.batch.micro_batches
    assert few.routed is not None
    assert torch.equal(few.routed[few.real], made[0].routed[:6])  # type: ignore[index]
    with pytest.raises(ValueError, match="routed is missing in 1 of 2 sequences"):
        pack([made[0], replace(made[1], routed=None)], layout)


def test_a_sigmoid_router_weighs_the_recorded_experts_by_its_scores():
    """Megatron asks by scores with the balancing bias, and takes its weights from the scores at the ids that it is given."""
    router = ReplayedRouter(0, (1, 0), torch.zeros(4, dtype=torch.float64))
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]], requires_grad=True)
    ids = torch.tensor([[[1, 3]], [[-1, -1]]], dtype=torch.int16)
    router.row, router.counts = _row(ids), True
    values, chosen = router.get_replay_topk(scores, 2, None, None, lambda scores, k, *_: scores.topk(k))
    assert chosen.tolist() == [[3, 1], [1, 3]]
    values.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    assert router._sums.tolist() == [2, 1, 2, 2]


def test_a_dense_model_has_nothing_to_replay(tmp_path: Path):
    write_model(tmp_path, 0)
    unused: Any = None
    with pytest.raises(ModelError, match=r"replay_routing = true: the model is dense.*set it to false"):
        load_policy(tmp_path, unused, settings(tmp_path))


def _row(ids: Tensor) -> Any:
    return SimpleNamespace(routed=ids, real=torch.ones(len(ids), dtype=torch.bool))


def _differing(reference: Reference, sequence: Sequence) -> int:
    """Recorded experts that the reference's routers would not have chosen where the others are replayed."""
    reference.own = []
    with torch.no_grad():
        reference.logp(sequence)
    own, ids = torch.stack(reference.own, 1), sequence.routed
    assert ids is not None
    return int(((ids[..., :, None] != own[..., None, :]).all(-1) & (ids >= 0)).sum())


def _distances(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Distance of every tensor to the reference's; in memory transformers has all experts of a layer in one tensor."""
    named = {}
    for name, tensor in expected.items():
        layer, _, kind = name.partition(".experts.")
        for number in range(EXPERTS if kind else 0):
            parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[kind]
            for part, value in zip(parts, tensor[number].chunk(len(parts)), strict=True):
                named[f"{layer}.experts.{number}.{part}.weight"] = value
        if not kind:
            named[name] = tensor
    assert found.keys() == named.keys()
    return {
        name: ((tensor.double() - named[name]).norm() / named[name].norm().clamp(min=1e-12)).item()
        for name, tensor in found.items()
    }
