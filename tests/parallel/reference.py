"""The expected result of a step: plain Hugging Face transformers in float64, in one process, one response per row, with every
objective written out from its paper. It shares no code with the learner.

A response that the learner is given cut into segments is scored uncut here; further segments are rows of their own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from tests.parallel.reference_adapters import adapt, save_adapters
from tests.parallel.reference_routing import replay

STEPS = 3
OPTIMIZER = {
    "lr": 3e-3,
    "betas": (0.9, 0.95),
    "eps": 1e-4,
    "weight_decay": 0.0,
}  # eps: large, so that no step is a sign
CLIP = 0.5
SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}
YARN = {
    "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64, "mscale": 1.0,
    "mscale_all_dim": 0.5,
}  # fmt: skip
# What tensor or pipeline parallelism does not divide: padded vocabularies, uneven chunks, one key/value head for two ranks.
ODD_VOCABULARY: dict[str, Any] = {"vocab_size": 97}
ODD_LAYERS: dict[str, Any] = {"num_hidden_layers": 5}
ONE_GROUP: dict[str, Any] = {"num_key_value_heads": 1}
EXPERTS: dict[str, Any] = {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
SIGMOID: dict[str, Any] = {
    "head_dim": 32, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.5,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 28, "kv_lora_rank": 20, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
    "num_nextn_predict_layers": 0,
}  # fmt: skip
UNDECIDED = 3e-5  # see expect
MODELS: dict[str, Callable[[], Any]] = {
    "qwen2 tied": lambda: transformers.Qwen2Config(**SMALL | ODD_VOCABULARY, tie_word_embeddings=True),
    "qwen2 untied": lambda: transformers.Qwen2Config(**SMALL | ONE_GROUP, tie_word_embeddings=False),
    "qwen3 tied": lambda: transformers.Qwen3Config(**SMALL | ODD_LAYERS, tie_word_embeddings=True, head_dim=32),
    "qwen3 untied": lambda: transformers.Qwen3Config(**SMALL | ONE_GROUP, tie_word_embeddings=False, head_dim=32),
    "llama tied": lambda: transformers.LlamaConfig(
        **SMALL, tie_word_embeddings=True, attention_bias=True, rope_parameters=LINEAR
    ),
    "llama untied": lambda: transformers.LlamaConfig(
        **SMALL | ODD_VOCABULARY, tie_word_embeddings=False, rope_parameters=LLAMA3
    ),
    "mistral untied": lambda: transformers.MistralConfig(
        **SMALL, tie_word_embeddings=False, head_dim=24, sliding_window=None, rope_parameters=YARN
    ),
    "moe tied": lambda: transformers.Qwen3MoeConfig(
        **SMALL, **EXPERTS, tie_word_embeddings=True, norm_topk_prob=False, mlp_only_layers=[2]
    ),
    "moe untied": lambda: transformers.Qwen3MoeConfig(
        **SMALL, **EXPERTS, tie_word_embeddings=False, norm_topk_prob=True
    ),
    "glm untied": lambda: transformers.Glm4MoeConfig(
        **SMALL | ODD_LAYERS, **SIGMOID, tie_word_embeddings=False, attention_bias=True, use_qk_norm=True
    ),
    "deepseek untied": lambda: transformers.DeepseekV3Config(
        **SMALL | SIGMOID | LATENT, tie_word_embeddings=False, attention_bias=True, rope_parameters=YARN
    ),
}


@dataclass(frozen=True)
class Answer:
    """A response: its tokens, whether the policy generated each of them, and its reward.

    Attributes:
        cuts: where the learner's next segment begins, whose context is everything before it: a generated token after one of
            the environment's.
        more: further segments, whose contexts are tokens of their own.
        unscored: why it has no reward; "": it has.
    """

    tokens: list[int]
    generated: list[bool]
    reward: float
    cuts: list[int] = field(default_factory=list)
    more: list[More] = field(default_factory=list)
    unscored: str = ""


@dataclass(frozen=True)
class More:
    """A further segment of a response: context, then tokens, and whether the policy generated each of those."""

    context: list[int]
    tokens: list[int]
    generated: list[bool]


@dataclass(frozen=True)
class Prompt:
    """A prompt and its group of responses, sampled at one temperature."""

    tokens: list[int]
    temperature: float
    answers: list[Answer]


def prompts() -> list[dict[str, Any]]:
    """Makes prompts with their responses, with every difficulty that a step has to cope with.

    Uneven lengths, one response of one token and one long one, tokens of the environment inside responses, rewards equal to
    the mean, a group whose rewards are all equal, several temperatures, responses of several segments, unscored responses,
    a group with only one scored response.
    """
    draw = random.Random(5)
    lengths = [(9, (4, 1, 12, 7)), (3, (90, 20, 6, 11)), (14, (5, 5, 5, 5)), (6, (17, 2, 30, 8))]
    rewards = [(1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (0.2, 0.9, 0.7, -0.4)]
    rows = []
    for (prompt, answers), given in zip(lengths, rewards, strict=True):
        made = []
        for length, reward in zip(answers, given, strict=True):
            generated = [draw.random() < 0.85 for _ in range(length - 1)] + [True]
            made.append(Answer(_tokens(draw, length), generated, reward))
        rows.append(Prompt(_tokens(draw, prompt), draw.choice([0.7, 1.0, 1.3]), made))
    return [asdict(row) for row in _with_segments(rows, random.Random(6))]


def _with_segments(rows: list[Prompt], draw: random.Random) -> list[Prompt]:
    first, second, third, fourth = (row.answers for row in rows)
    cut = fourth[2]
    after = [i for i in range(4, len(cut.tokens)) if cut.generated[i] and not cut.generated[i - 1]]
    fourth[2] = replace(cut, cuts=after[:2])
    more = [More(_tokens(draw, a), _tokens(draw, b), [True] * (b - 2) + [False, True]) for a, b in ((4, 5), (1, 3))]
    second[1] = replace(second[1], more=more)
    unscored = Answer(_tokens(draw, 8), [True] * 8, 9.0, unscored="reward_timeout")
    first += [unscored, Answer([], [], -9.0, unscored="agent_crashed")]
    third[:] = [*third[:2], *(replace(one, reward=5.0, unscored="reward_error") for one in third[2:])]
    alone = Answer(_tokens(draw, 4), [True] * 4, 1.0)
    return [*rows, Prompt(_tokens(draw, 5), 1.0, [alone, replace(alone, reward=0.0, unscored="no_judge")])]


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(SMALL["vocab_size"]) for _ in range(count)]


@dataclass(frozen=True)
class Scored:
    """A response under the model: its advantage, and each generated token's negative log-probability and entropy."""

    advantage: float
    nll: Tensor
    entropy: Tensor


Groups = list[list[Scored]]


@dataclass
class Means:
    """Exponential means of the weights of positives and negatives, without asympo's factor, after the previous step."""

    positive: float = 0.0
    negative: float = 0.0

    def factor(self, rho_max: float | None) -> float:
        if rho_max is None:
            return 1.0
        ratio = self.positive / self.negative if self.negative else 1.0
        return min(1.0, rho_max * ratio)

    def update(self, groups: Groups, objective: Any) -> None:
        decay, (raised, lowered) = objective.rho_decay, weights(groups, objective)
        self.positive = decay * self.positive + (1 - decay) * raised
        self.negative = decay * self.negative + (1 - decay) * lowered


def scales(groups: Groups) -> tuple[float, float]:
    """Mean S of the responses with a positive advantage, and of those with a negative one."""
    scored = [(s.advantage, s.nll.mean().item()) for group in groups for s in group]
    up = [scale for advantage, scale in scored if advantage > 0]
    down = [scale for advantage, scale in scored if advantage < 0]
    return sum(up) / len(up), sum(down) / len(down)


def clipped(s: Scored, objective: Any) -> Tensor:
    """Negative log-probabilities of a response's tokens, within the clip of its sign."""
    nll = s.nll
    if s.advantage >= 0 and objective.p_high is not None:
        nll = torch.maximum(nll, -torch.tensor(objective.p_high).double().log())
    if s.advantage < 0 and objective.p_low is not None:
        nll = torch.minimum(nll, -torch.tensor(objective.p_low).double().log())
    return nll


def weights(groups: Groups, objective: Any) -> tuple[float, float]:
    """Total |d loss / d log p| of asympo over positives and over negatives, without the guard's factor; no clipped token."""
    total = [0.0, 0.0]
    for group in groups:
        for s in group:
            nll = clipped(s, objective).detach()
            free = (nll == s.nll.detach()).double().mean().item()
            size = abs(s.advantage) / max(nll.mean().item(), objective.scale_floor) / len(group) / len(groups)
            total[s.advantage < 0] += size * free
    return total[0], total[1]


def asympo(groups: Groups, objective: Any, means: Means) -> Tensor:
    factor = means.factor(objective.rho_max)
    terms = []
    for group in groups:
        for s in group:
            nll = clipped(s, objective)
            weight = s.advantage if s.advantage >= 0 else factor * s.advantage
            terms.append(weight * nll.mean() / max(nll.mean().item(), objective.scale_floor) / len(group))
    return torch.stack(terms).sum() / len(groups)


def scaled(groups: Groups, alpha: float) -> Tensor:
    """Weights positives by their advantage, negatives by alpha times theirs; each response counts by its tokens' mean."""
    terms = [
        (s.advantage if s.advantage >= 0 else alpha * s.advantage) * s.nll.mean() / len(group)
        for group in groups
        for s in group
    ]
    return torch.stack(terms).sum() / len(groups)


def opmd(groups: Groups, tau: float) -> Tensor:
    tokens = sum(len(s.nll) for group in groups for s in group)
    return torch.stack([s.advantage * s.nll.sum() for group in groups for s in group]).sum() / tokens / (1 + tau)


def asymre(groups: Groups, shift: float) -> Tensor:
    mixed = [group for group in groups if any(s.advantage for s in group)]
    terms = [(s.advantage + shift) * s.nll.sum() / len(group) for group in mixed for s in group]
    return torch.stack(terms).sum() / len(groups)


FORMULAS: dict[str, Callable[[Groups, Any, Means], Tensor]] = {
    "asympo": asympo,
    "spo": lambda groups, objective, _: scaled(groups, objective.spo_alpha),
    "reinforce": lambda groups, *_: scaled(groups, 1.0),
    "positives": lambda groups, *_: scaled(groups, 0.0),
    "opmd": lambda groups, objective, _: opmd(groups, objective.opmd_tau),
    "asymre": lambda groups, objective, _: asymre(groups, objective.asymre_shift),
}


@dataclass
class Expected:
    """The results of all steps.

    Attributes:
        losses: loss of each step.
        scales: for each step, the mean S of the responses with A > 0 and of those with A < 0.
        gradient: the first step's gradient after clipping.
        updates: the change of every weight, by the number of steps it took: 1 and all.
    """

    losses: list[float] = field(default_factory=list)
    scales: list[tuple[float, float]] = field(default_factory=list)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def save_model(directory: Path, name: str) -> None:
    """Saves a model with weights as large as trained ones, and with norms and biases off their defaults."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name]()).float()
    with torch.no_grad():
        for tensor in (*model.parameters(), *correction_biases(model).values()):
            tensor.add_(torch.randn_like(tensor) * 0.08)
    model.save_pretrained(directory)
    save_adapters(directory, model)


def expect(
    directory: Path,
    rows: list[dict[str, Any]],
    objective: Any,
    adapted: tuple[str, ...] = (),
    replayed: bool = False,
) -> Expected:
    """Trains the model, or adapters of it, for all steps.

    Args:
        directory: the model.
        rows: prompts with their responses.
        objective: anything with ``name`` and the objective's constants as attributes.
        adapted: projections whose adapters are trained; empty: all weights are.
        replayed: whether tokens go to the experts of made-up records.

    Raises:
        AssertionError: a token is nearly undecided between two experts. Its loss jumps there, and rounding would choose the
            side: the test needs other weights.
    """
    plain = {"dtype": torch.float64, "experts_implementation": "eager"}  # grouped kernels know no float64
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, **plain)
    live = _pad([torch.ones(len(tokens), dtype=torch.bool) for tokens in _rows(rows)])
    if replayed:
        live = live & replay(model, _rows(rows))
    gaps = watch_routers(model, live)
    trained = adapt(directory, model, adapted) if adapted else dict(model.named_parameters())
    optimizer = torch.optim.AdamW(trained.values(), **OPTIMIZER)
    start = on_disk(trained)
    expected, means = Expected(), Means()
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        groups = _score(model, rows)
        loss = FORMULAS[objective.name](groups, objective, means)
        if objective.entropy_coef:
            bonus = [s.entropy.mean() / len(group) for group in groups for s in group if len(group) > 1]
            loss = loss - objective.entropy_coef * torch.stack(bonus).sum() / len(groups)
        loss.backward()
        expected.scales.append(scales(groups))
        if objective.name == "asympo":
            means.update(groups, objective)
        torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
        expected.losses.append(loss.item())
        if step == 1:
            gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
            expected.gradient = on_disk(gradients)
        optimizer.step()
        if step in (1, STEPS):
            now = on_disk(trained)
            expected.updates[step] = {name: value - start[name] for name, value in now.items()}
    assert min(gaps, default=math.inf) > UNDECIDED, f"{directory.name}: {min(gaps)} between two experts' logits"
    return expected


def correction_biases(model: Any) -> dict[str, Tensor]:
    """Buffers of routers by name, which are no parameters: experts are chosen with them, and no gradient reaches them."""
    return {name: tensor for name, tensor in model.named_buffers() if name.endswith("e_score_correction_bias")}


def watch_routers(model: Any, live: Tensor | None = None) -> list[float]:
    """Records, each time a router runs, the least distance of any token's last chosen logit or score to the next one.

    Args:
        live: [rows, width] bool, false where rows are padded; None if they are not padded.

    Returns:
        A list that is filled as the model runs.
    """
    gaps: list[float] = []

    def watch(router: Any, _: Any, output: tuple[Tensor, ...]) -> None:
        logits = output[0].detach() if live is None else output[0].detach()[live.flatten()]
        for scores, chosen in _choices(router, logits):
            best = scores.topk(chosen + 1).values
            gaps.append((best[:, -2] - best[:, -1]).min().item())

    for module in model.modules():
        if isinstance(module, (Qwen3MoeTopKRouter, Glm4MoeTopkRouter, DeepseekV3TopkRouter)):
            module.register_forward_hook(watch)
    return gaps


def _choices(router: Any, logits: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """What a router chooses by, [tokens, candidates], and how many of them: experts, or groups and then experts of those."""
    if isinstance(router, Qwen3MoeTopKRouter):
        yield logits, router.top_k
        return
    # A sigmoid moves by a quarter of what its logit moves by, or less.
    scores = 4 * (logits.sigmoid() + router.e_score_correction_bias)
    count: Any = router.num_group
    if isinstance(router, DeepseekV3TopkRouter) and count > 1:
        groups = scores.unflatten(-1, (count, -1))
        best = groups.topk(2).values.sum(-1)
        yield best, router.topk_group
        chosen = best.topk(router.topk_group).indices[..., None].expand(-1, -1, groups.shape[-1])
        scores = groups.gather(1, chosen).flatten(1)
    yield scores, router.top_k


def _score(model: Any, rows: list[dict[str, Any]]) -> Groups:
    """Scores all groups. Rows are padded at their end, which a causal model does not see."""
    logits = iter(model(_pad(_rows(rows))).logits)
    return [_score_group(row, logits) for row in rows]


def _rows(rows: list[dict[str, Any]]) -> list[Tensor]:
    return [torch.tensor(context + tokens) for row in rows for part in _parts(row) for context, tokens, _ in part]


Part = tuple[list[int], list[int], list[bool]]  # context, tokens, whether each of those was generated


def _parts(row: dict[str, Any]) -> list[list[Part]]:
    """The parts of each scored response of a prompt: the response itself, and its further segments."""
    scored = [answer for answer in row["answers"] if not answer["unscored"]]
    return [
        [
            (row["tokens"], answer["tokens"], answer["generated"]),
            *((more["context"], more["tokens"], more["generated"]) for more in answer["more"]),
        ]
        for answer in scored
    ]


def _pad(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _score_group(row: dict[str, Any], rows_logits: Iterator[Tensor]) -> list[Scored]:
    rewards = [answer["reward"] for answer in row["answers"] if not answer["unscored"]]
    mean = sum(rewards) / len(rewards)
    scored = []
    for reward, parts in zip(rewards, _parts(row), strict=True):
        each = [_score_part(part, row["temperature"], next(rows_logits)) for part in parts]
        nll, entropy = (torch.cat(values) for values in zip(*each, strict=True))
        scored.append(Scored(reward - mean, nll, entropy))
    return scored


def _score_part(part: Part, temperature: float, row_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-probability and entropy of each generated token."""
    context, tokens, generated = part
    logits = row_logits[len(context) - 1 : len(context) - 1 + len(tokens)]
    logp = torch.log_softmax(logits / temperature, -1)
    own = torch.tensor(generated)
    nll = -logp.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return nll[own], -(logp.exp() * logp).sum(-1)[own]


def on_disk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies under the names that files have. In memory all experts of a layer are one tensor, gate and up projection too."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".experts.")
        projections = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(kind if layer else "")
        if projections is None:
            named[name] = tensor.detach().clone()
            continue
        for number, expert in enumerate(tensor.detach()):
            for projection, value in zip(projections, expert.chunk(len(projections)), strict=True):
                named[f"{layer}.experts.{number}.{projection}.weight"] = value.clone()
    return named
