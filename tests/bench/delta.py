"""What a delta version of a bf16 model costs after one step of AdamW: bytes, time to write and to apply, bit for bit.

    python tests/bench/delta.py [--hidden 512] [--layers 8] [--vocabulary 32000] [--rates 1e-6 1e-5 1e-4]

A Qwen3-shaped model with weights as they are initialised (std 0.02) takes one real step per learning rate, from the same
weights; bf16 is what is published, fp32 what is stepped. Everything lies in a temporary directory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file
from torch import Tensor

from learner.config import PublishConfig
from learner.publish.mirrors import MirrorOutcome
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from leeway.v1 import rollout_pb2
from rollout.versions.verifier import Verifier
from runtime.version_format.names import version_name
from tests.tools.publishing import ready


class Registry:
    """Callbacks of a publisher that remember its last announcement."""

    def __init__(self) -> None:
        self.policy = rollout_pb2.Policy()
        self.seconds = 0.0

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        self.policy, self.seconds = policy, seconds

    def not_published(self, version: int, error: Exception) -> None:
        raise error

    def coalesced(self, step: int, replaced: int) -> None:
        raise AssertionError(f"step {replaced} was not waited for")

    def mirrored(self, outcomes: Sequence[MirrorOutcome]) -> None: ...

    def in_use(self) -> set[int]:
        return set()


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=options.vocabulary, hidden_size=options.hidden, intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers, num_attention_heads=8, num_key_value_heads=4, head_dim=options.hidden // 8,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    tokens = torch.randint(options.vocabulary, (2, 256))
    model(tokens, labels=tokens).loss.backward()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    count = sum(parameter.numel() for parameter in start.values())
    print(f"{count / 1e6:.1f}M parameters, bfloat16")
    print("learning rate  changed  bytes of full  write full s  write delta s  apply s  verify full s  bit-exact")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=0, world_size=1)
        model.config.save_pretrained(root / "model")
        model.bfloat16().save_pretrained(root / "model")
        model.float()
        for index, rate in enumerate(options.rates):
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(start[name])
            torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0).step()
            after = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            print(f"{rate:13g}  {measure(root, index, start, after)}")
        dist.destroy_process_group()


def measure(root: Path, index: int, start: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """Writes and reads a full version of ``start`` and a delta to ``after``; returns the table's row."""
    fence = DirectoryFence(root / f"weights{index}", 1)
    fence.acquire()
    registry = Registry()
    settings = PublishConfig(dir=fence.root, dtype="bfloat16", full_every=2)
    publisher = Publisher(settings, fence, root / "model", 0, registry)
    verifier = Verifier(root / "model", [root.absolute().as_uri()], root / f"cache{index}")
    timings = []
    for weights in (start, after):
        publisher.publish(0, ready(list(weights.items())))
        publisher.wait()
        began = time.monotonic()
        found = verifier.verify(registry.policy)
        timings.append((registry.seconds, time.monotonic() - began))
    size = [
        sum(path.stat().st_size for path in (fence.root / version_name(version)).glob("*.safetensors"))
        for version in (0, 1)
    ]
    tensors = load_file(found.path / "model-00000.safetensors")
    bits = {
        name: (tensor.bfloat16().view(torch.int16), start[name].bfloat16().view(torch.int16))
        for name, tensor in after.items()
    }
    exact = all(torch.equal(tensors[name].view(torch.int16), new) for name, (new, _) in bits.items())
    changed = sum(int((new != old).sum()) for new, old in bits.values()) / sum(new.numel() for new, _ in bits.values())
    (full_s, verify_s), (delta_s, apply_s) = timings
    return (
        f"{changed:7.2%}  {size[1] / size[0]:13.2%}  {full_s:12.2f}  {delta_s:13.2f}  {apply_s:7.2f}  "
        f"{verify_s:13.2f}  {exact}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-6, 1e-5, 1e-4])
    main(parser.parse_args())
