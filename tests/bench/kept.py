"""What a layer keeps for its backward pass, counted on a CPU: `python -m tests.bench.kept [HIDDEN HEADS GROUPS FFN]`.

One layer of a Qwen3 in bf16 (by default Qwen3-4B's), a row of uneven sequences, plain operators and fused kernels (stand-ins
that keep what the kernels keep). Every storage that a saved tensor keeps alive counts once, whole; parameters and what all
layers share do not. Prints KiB a token, and what learner/config/activation_memory.py says.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.config import LearnerConfig
from learner.config.activation_memory import activation_bytes
from learner.config.workload import Workload
from learner.megatron.model import rms_norm
from learner.megatron.model.build import load_policy
from learner.megatron.model.packed_model import Policy
from learner.megatron.model.packed_row import PackedRow
from tests.bench import subject
from tests.parallel.fused import fused_on_cpu

LENGTHS = (311, 97, 256, 180, 180)  # tokens


@contextmanager
def counted(layer: torch.nn.Module, shared: list[torch.Tensor]) -> Iterator[dict[int, int]]:
    """Collects the size of each storage that ``layer`` keeps in a forward pass, by address."""
    real = torch.autograd.graph.saved_tensors_hooks
    known = {tensor.untyped_storage().data_ptr() for tensor in [*layer.parameters(), *shared]}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def within(pack: Callable[[torch.Tensor], Any], unpack: Callable[[Any], torch.Tensor]) -> Any:
        """The layer's own hooks, which replace ours while they are in effect."""

        def note(tensor: torch.Tensor) -> Any:
            packed = pack(tensor)
            for one in [packed] if torch.is_tensor(packed) else packed.recipe.inputs:
                keep(one)
            return packed

        return real(note, unpack)

    inside = real(keep, lambda tensor: tensor)
    handles = [
        layer.register_forward_pre_hook(lambda *_: inside.__enter__()),
        layer.register_forward_hook(lambda *_: inside.__exit__()),
    ]
    with mock.patch.object(torch.autograd.graph, "saved_tensors_hooks", within):
        yield sizes
    for handle in handles:
        handle.remove()


def kept(policy: Policy) -> float:
    """Bytes a token that the first layer keeps."""
    sequences = [Sequence(torch.ones(n, dtype=torch.int64), torch.arange(n) >= n // 2, 1.0, 1.0) for n in LENGTHS]
    micro_batch = pack(sequences, Layout()).micro_batches[0]
    row = PackedRow.of(micro_batch, policy.rotary, policy.dtype, torch.device("cpu"), kernels=policy.kernels)
    held: list[Any] = [row, row.queries, row.keys]
    shared = [v for one in held if one is not None for f in fields(one) if torch.is_tensor(v := getattr(one, f.name))]
    model = policy.models[0]
    # On a CPU torch's norm is made of many operators; on CUDA it keeps its input and the scale, as our own does.
    norm = mock.patch.object(
        rms_norm.F, "rms_norm", lambda x, _, weight, eps: rms_norm._Normalise.apply(x, weight, eps)
    )
    with norm, counted(model.decoder.layers[0], shared) as sizes:
        hidden = model(micro_batch.tokens, micro_batch.positions, row)
    assert hidden.requires_grad, "nothing would be kept"
    return sum(sizes.values()) / sum(LENGTHS)


def main(hidden: int = 2560, heads: int = 32, groups: int = 8, ffn: int = 9728) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = transformers.Qwen3Config(
            vocab_size=256, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=1, num_attention_heads=heads,
            num_key_value_heads=groups, head_dim=128, max_position_embeddings=1024, tie_word_embeddings=True,
        )  # fmt: skip
        transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(directory)
        unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
        given = {"model": name, "queue": {"url": "redis://unused", "run": "bench"}, "dtype": "bfloat16"}
        settings = LearnerConfig.parse(given | unused, source="bench")
        ranks = subject.alone(settings)
        for fused, recompute in itertools.product((False, True), ("none", "selective")):
            chosen = settings.model_copy(update={"recompute": recompute})
            with fused_on_cpu() if fused else nullcontext():
                policy = load_policy(directory, ranks, chosen)
            work = Workload(settings.parallel, 1, tokens=1024, recompute=recompute, fused=fused)
            said = activation_bytes(policy.architecture.config, work, 0) / 1024
            name = f"{'fused' if fused else 'plain'}, recompute {recompute}"
            print(f"{name}: {kept(policy) / 1024:.1f} KiB a token; the formula says {said / 1024:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
