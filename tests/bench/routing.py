"""What routing replay buys: `python -m tests.bench.routing [STEPS] [SEEDS] [NOISE]` (150 steps, 2 seeds, noise 0.3).

A tiny mixture, warm-started once, learns `sort` from groups of an engine whose router is perturbed: Gaussian noise is added
to its logits, drawn anew for each token and layer, NOISE times as wide as a token's logits are. The same engine, prompts and
noise with learner.replay_routing off and on; tokens are never stale. Printed of each run: the mean reward of the engine's
responses in the first and the last 20 steps, the reward of greedy responses of the trained policy without noise (256 held-out
prompts), the share of choices in which engine and learner differ, and how far their log-probabilities of the sampled tokens
are apart: the mean of log engine - log learner (an estimate of the KL divergence) and of its absolute value, in nats.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner import objectives
from learner.batch.advantages import advantages
from learner.batch.packing import Layout, pack
from learner.batch.sequences import to_sequences
from learner.batch.types import Sequence as Trained
from learner.config import LearnerConfig
from learner.config.routing import routing_shape
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Exporter
from learner.megatron.parallel import Ranks
from learner.megatron.training.trainer import Trainer
from learner.warmup import warm_up
from leeway.v1 import rollout_pb2 as pb
from rollout.data.demo_model import EOS, PAD, TOKENS, DemoShape, write_model
from rollout.data.tokenizer import Tokenizer
from runtime.routing_record import RoutingShape
from tests.evidence.learning import single_rank
from tests.evidence.supply import PromptSupply

PROMPTS, RESPONSES, MOST_TOKENS, LAST, EVALUATED = 12, 8, 7, 20, 256
LR, WARM_LR, TARGET, DEMONSTRATIONS = 1e-3, 2e-3, 0.1, 20_000
SHAPE = DemoShape(layers=2, hidden=48, ffn=96, heads=2, kv_heads=1, head_dim=24)
EXPERTS, CHOSEN, EXPERT_FFN = 8, 2, 48


class Engine:
    """Samples from a mixture's weights in plain torch, with noise on its router, and says where each token went.

    Args:
        weights: by their Hugging Face names.
        config: content of the model's config.json.
        noise: width of the noise, in standard deviations of a token's logits over the experts.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], noise: float) -> None:
        self._weights, self._config, self._noise = weights, config, noise
        half = torch.arange(0, config["head_dim"], 2).float() / config["head_dim"]
        angles = torch.arange(config["max_position_embeddings"]).float()[:, None] * 10_000.0**-half
        self._cos, self._sin = torch.cat([angles.cos()] * 2, 1), torch.cat([-angles.sin(), angles.sin()], 1)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], draw: torch.Generator, greedy: bool = False) -> list[Sampled]:
        """Draws a response to each prompt at temperature 1, or the likeliest one. Every token is routed once."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        rows, width = len(prompts), int(lengths.max()) + MOST_TOKENS
        tokens = torch.tensor([[*prompt, *[PAD] * (width - len(prompt))] for prompt in prompts])
        layers = self._config["num_hidden_layers"]
        noise = torch.randn(rows, width, layers, EXPERTS, generator=draw) * self._noise
        logp, live, index = torch.zeros(rows, MOST_TOKENS), torch.ones(rows, dtype=torch.bool), torch.arange(rows)
        routed = torch.zeros(0)
        for number in range(MOST_TOKENS):
            known = int(lengths.max()) + number
            logits, routed = self._run(tokens[:, :known], noise[:, :known])
            scores = torch.log_softmax(logits[index, lengths - 1 + number], -1)
            token = scores.argmax(-1) if greedy else torch.multinomial(scores.exp(), 1, generator=draw)[:, 0]
            tokens[index, lengths + number] = token.where(live, PAD)
            logp[:, number] = scores.gather(1, token[:, None])[:, 0]
            live &= token != EOS
            if not live.any():
                break
        return [self._sampled(tokens[row], int(lengths[row]), logp[row], routed[row]) for row in range(rows)]

    def _sampled(self, tokens: Tensor, prompt: int, logp: Tensor, routed: Tensor) -> Sampled:
        answer = tokens[prompt : prompt + MOST_TOKENS].tolist()
        answer = answer[: answer.index(EOS) + 1] if EOS in answer else answer
        return Sampled(answer, logp[: len(answer)], routed[: prompt + len(answer) - 1])

    def _run(self, tokens: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [rows, n, V] of tokens [rows, n], and the experts that they go to, [rows, n, layers, k]."""
        hidden, chosen = self._weights["model.embed_tokens.weight"][tokens], []
        for layer in range(self._config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            hidden = hidden + self._attended(prefix, self._normed(prefix + "input_layernorm", hidden))
            mixed, ids = self._mixed(
                prefix, self._normed(prefix + "post_attention_layernorm", hidden), noise[:, :, layer]
            )
            hidden = hidden + mixed
            chosen.append(ids)
        hidden = self._normed("model.norm", hidden)
        return F.linear(hidden, self._weights["lm_head.weight"]), torch.stack(chosen, 2)

    def _attended(self, prefix: str, hidden: Tensor) -> Tensor:
        rows, count, _ = hidden.shape
        prefix += "self_attn."
        query, key, value = (
            F.linear(hidden, self._weights[f"{prefix}{part}_proj.weight"]).view(
                rows, count, -1, self._config["head_dim"]
            )
            for part in "qkv"
        )
        query, key = (self._rotated(self._normed(f"{prefix}{n}_norm", x)) for n, x in (("q", query), ("k", key)))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return F.linear(out.transpose(1, 2).reshape(rows, count, -1), self._weights[prefix + "o_proj.weight"])

    def _mixed(self, prefix: str, hidden: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        scores = F.linear(hidden, self._weights[prefix + "mlp.gate.weight"])
        scores = scores + noise * scores.std(-1, keepdim=True)
        values, ids = scores.topk(CHOSEN, -1)
        share = torch.zeros_like(scores).scatter(-1, ids, values.softmax(-1))
        out = torch.zeros_like(hidden)
        for expert in range(EXPERTS):
            gate, up, down = (
                self._weights[f"{prefix}mlp.experts.{expert}.{part}_proj.weight"] for part in ("gate", "up", "down")
            )
            made = F.linear(F.silu(F.linear(hidden, gate)) * F.linear(hidden, up), down)
            out = out + made * share[..., expert : expert + 1]
        return out, ids

    def _normed(self, name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self._weights[f"{name}.weight"]

    def _rotated(self, x: Tensor) -> Tensor:
        cos, sin = (part[: x.shape[1], None] for part in (self._cos, self._sin))
        return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


@dataclass(frozen=True)
class Sampled:
    """A response: its tokens, their log-probabilities in the engine, and where all tokens but the last went."""

    tokens: list[int]
    logp: Tensor
    routed: Tensor  # [prompt + tokens - 1, layers, k]


class Run:
    """Trains from a warm-started policy on what the engine makes of its own versions."""

    def __init__(self, model: Path, ranks: Ranks, replays: bool, seed: int, noise: float) -> None:
        self._config = json.loads((model / "config.json").read_text())
        shape = routing_shape(self._config)
        assert shape is not None
        self._shape: RoutingShape = shape
        self._replays, self._noise = replays, noise
        config = settings(model, {"replay_routing": replays, "optimizer": {"lr": LR}})
        policy = load_policy(model, ranks, config)
        self._trainer = Trainer(policy, config.optimizer, ranks)
        self._objective = objectives.get(config.objective)
        self._exporter = Exporter(policy, ranks, "float32")
        self._trainer.before_update(self._exporter.protect)
        self._tokenizer = Tokenizer(model)
        self._supply = PromptSupply("sort", seed, self._tokenizer)
        self._draw = torch.Generator().manual_seed(1000 + seed)

    def step(self) -> dict[str, float | None]:
        """Samples a batch, takes a step, and says what was measured."""
        questions = self._supply.take(PROMPTS)
        asked = [question for question in questions for _ in range(RESPONSES)]
        made = self._engine(self._noise).sample([question.ids for question in asked], self._draw)
        rewards = [self._reward(self._supply, *pair) for pair in zip(asked, made, strict=True)]
        groups, kept = [], []
        for start in range(0, len(asked), RESPONSES):
            own, earned = made[start : start + RESPONSES], rewards[start : start + RESPONSES]
            groups.append(self._group(asked[start].ids, own, earned))
            if min(earned) != max(earned):
                given = advantages(earned, self._objective.weighting.advantage).tolist()
                kept += [one for one, advantage in zip(own, given, strict=True) if advantage]
        row: dict[str, float | None] = {"reward": statistics.fmean(rewards)}
        sequences = to_sequences(groups, self._objective.weighting, self._shape if self._replays else None)
        if not sequences:
            return row
        batch = pack([_with_logp(*pair) for pair in zip(sequences, kept, strict=True)], Layout())
        stats = self._trainer.train_step(batch, self._objective, LR)
        if not stats.skipped:
            self._objective.observe(stats.metrics)
        engine = torch.cat([one.behaviour_logp for one in batch.micro_batches if one.behaviour_logp is not None])
        apart = engine - torch.cat(list(stats.logp))
        row |= {"kl": apart.mean().item(), "apart": apart.abs().mean().item()}
        if stats.replay is not None:
            row["differing"] = stats.replay.differing / stats.replay.choices
        return row

    def greedy(self) -> float:
        """Mean reward of the likeliest responses to held-out prompts, without noise."""
        supply = PromptSupply("sort", 10_000, self._tokenizer, held_out=True)
        questions = supply.take(EVALUATED)
        made = self._engine(0.0).sample([question.ids for question in questions], self._draw, greedy=True)
        return statistics.fmean(self._reward(supply, *pair) for pair in zip(questions, made, strict=True))

    def _engine(self, noise: float) -> Engine:
        export = self._exporter.begin(whole=True)
        weights = {name: tensor.clone() for name, tensor in export.shard()}
        export.release()
        return Engine(weights, self._config, noise)

    def _reward(self, supply: PromptSupply, question: Any, made: Sampled) -> float:
        return float(supply.task.reward(question.prompt, self._tokenizer.text(made.tokens)))  # type: ignore[arg-type]

    def _group(self, prompt: list[int], made: Sequence[Sampled], rewards: Sequence[float]) -> pb.Group:
        fields = self._shape.model_dump()
        responses = [
            pb.Response(
                tokens=_wire(one.tokens),
                reward=reward,
                spans=[pb.Span(start=0, end=len(one.tokens))],
                routed_experts=pb.RoutedExperts(**fields, ids=self._shape.encode(one.routed.numpy())),
            )
            for one, reward in zip(made, rewards, strict=True)
        ]
        return pb.Group(prompt_tokens=_wire(prompt), responses=responses, temperature=1.0)


def _with_logp(sequence: Trained, made: Sampled) -> Trained:
    logp = torch.zeros(len(sequence.tokens))
    logp[sequence.generated] = made.logp
    return replace(sequence, behaviour_logp=logp)


def _wire(ids: Sequence[int]) -> bytes:
    return torch.tensor(ids, dtype=torch.int32).numpy().astype("<i4").tobytes()


def settings(model: Path, more: Mapping[str, Any]) -> LearnerConfig:
    """A learner's settings with which nothing is written."""
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    given = {"model": str(model), "queue": {"url": "redis://unused", "run": "bench"}, "objective": {"name": "asympo"}}
    return LearnerConfig.parse(given | unused | dict(more), source="bench")


def write_mixture(directory: Path, ranks: Ranks) -> None:
    """Writes a mixture and its tokenizer, and teaches it until it earns some reward."""
    write_model(directory, 0, SHAPE)  # for its tokenizer
    torch.manual_seed(0)
    family: Any = transformers.Qwen3MoeConfig
    config = family(
        vocab_size=len(TOKENS), hidden_size=SHAPE.hidden, intermediate_size=SHAPE.ffn, num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads, num_key_value_heads=SHAPE.kv_heads, head_dim=SHAPE.head_dim,
        max_position_embeddings=SHAPE.max_positions, num_experts=EXPERTS, num_experts_per_tok=CHOSEN,
        moe_intermediate_size=EXPERT_FFN, norm_topk_prob=True, tie_word_embeddings=False, initializer_range=0.1,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).float().save_pretrained(directory)
    demonstrations = directory / "demonstrations.jsonl"
    _demonstrate(Tokenizer(directory), demonstrations)
    warmup = {"demonstrations": str(demonstrations), "target": TARGET, "lr": WARM_LR, "max_steps": 2000}
    warm = settings(directory, {"warmup": warmup, "optimizer": {"lr": WARM_LR}})
    policy = load_policy(directory, ranks, warm)
    warm_up(warm, Trainer(policy, warm.optimizer, ranks), Layout(), ranks, None, lambda: False)
    export = Exporter(policy, ranks, "float32").begin(whole=True)
    taught = {name: tensor.contiguous().clone() for name, tensor in export.shard()}
    export.release()
    assert taught.keys() == load_file(directory / "model.safetensors").keys()
    save_file(taught, directory / "model.safetensors", {"format": "pt"})


def _demonstrate(tokenizer: Tokenizer, path: Path) -> None:
    """Writes solutions of prompts that are drawn with another seed than those of training."""
    supply, rows = PromptSupply("sort", -1, tokenizer), []
    for question in supply.take(DEMONSTRATIONS):
        solution = supply.task.solution(question.prompt)
        assert solution is not None
        response = tokenizer.response_ids(solution)
        rows.append({"prompt": question.ids, "response": response, "generated": [[0, len(response)]]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(rows: Sequence[Mapping[str, float | None]], greedy: float) -> str:
    """The line of a run."""

    def mean(name: str) -> str:
        values = [value for row in rows[-LAST:] if (value := row.get(name)) is not None]
        return f"{statistics.fmean(values):.4f}" if values else "-"

    first = statistics.fmean(row["reward"] or 0.0 for row in rows[:LAST])
    names = ("reward", "differing", "kl", "apart")
    return (
        f"first reward {first:.3f}, last "
        + ", ".join(f"{name} {mean(name)}" for name in names)
        + f", greedy {greedy:.3f}"
    )


def main() -> None:
    """Runs both kinds for every seed."""
    given = [float(argument) for argument in sys.argv[1:]]
    steps, seeds, noise = (*given, *(150, 2, 0.3)[len(given) :])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="routing") as temporary:
        model = Path(temporary) / "model"
        ranks = single_rank(settings(Path(temporary), {}))
        write_mixture(model, ranks)
        print(f"{steps} steps, noise {noise:g}, {EXPERTS} experts of which {CHOSEN}", flush=True)
        for seed in range(int(seeds)):
            for replays in (False, True):
                began, run, rows = time.process_time(), Run(model, ranks, replays, seed, noise), []
                for number in range(int(steps)):
                    rows.append(run.step())
                    if number % 10 == 9:
                        print(f"  seed {seed} replay {replays} {number + 1}: {rows[-1]}", flush=True)
                spent = time.process_time() - began
                print(f"seed {seed} replay {replays}: {told(rows, run.greedy())}, {spent:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
