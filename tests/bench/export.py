"""What exporting a version costs each rank: bytes it exports, peak memory above what it had, seconds of the copy and of all.

    python -m tests.bench.export [--tensor 2] [--data 2] [--pipeline 1] [--hidden 768] [--layers 8]

A Qwen3-shaped model in fp32 is cut over real ranks (torchrun, gloo). The peak is sampled every millisecond from the start of
the first export; it contains the copy, which is kept, and what is exported. Training waits for the copy alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_MB = 1_000_000


def main(options: argparse.Namespace) -> int:
    """Makes the model, starts the ranks, and returns their exit status."""
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=32_000, hidden_size=options.hidden, intermediate_size=3 * options.hidden, tie_word_embeddings=False,
        num_hidden_layers=options.layers, num_attention_heads=8, num_key_value_heads=4, head_dim=options.hidden // 8,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        model = transformers.AutoModelForCausalLM.from_config(config).float()
        model.save_pretrained(directory)
        print(f"{sum(p.nbytes for p in model.parameters()) / _MB:.0f} MB in fp32", flush=True)
        del model
        ranks = options.tensor * options.data * options.pipeline
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        cut = [str(options.tensor), str(options.pipeline)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([*torchrun, __file__, directory, *cut], env=environment, timeout=300).returncode


def rank(directory: Path, tensor: int, pipeline: int) -> None:
    """Exports twice and prints the second time's seconds, and the peak of both."""
    import learner.megatron  # noqa: F401  makes megatron usable before the imports below
    from learner.config import LearnerConfig
    from learner.megatron.model.build import load_policy
    from learner.megatron.model.export import Exporter
    from learner.megatron.parallel import start
    from tests.bench.logprobs import _Peak, _resident

    values = {"model": str(directory), "queue": {"url": "redis://unused", "run": "bench"}, "steps": 1}
    values |= {"parallel": {"tensor": tensor, "pipeline": pipeline}, "metrics_dir": "unused"}
    config = LearnerConfig.parse(values | {"checkpoint": {"dir": "u"}, "publish": {"dir": "u"}}, source="bench")
    ranks = start(config.parallel, 1, 120)
    policy = load_policy(config.model, ranks, config)
    mine = sum(parameter.nbytes for model in policy.models for parameter in model.parameters())
    stage = mine * ranks.tensor_size
    exporter = Exporter(policy, ranks)
    ranks.barrier()
    before, seconds, copied, exported = _resident(), 0.0, 0.0, 0
    with _Peak() as peak:
        for _ in range(2):
            began = time.monotonic()
            export = exporter.begin()
            copied = time.monotonic() - began
            exported = sum(value.nbytes for _, value in export.shard())
            seconds = time.monotonic() - began
            export.release()
            ranks.barrier()
    text = (
        f"rank {ranks.rank}: stage {stage / _MB:.0f} MB, exports {exported / _MB:.0f} MB ({exported / stage:.0%}), "
        f"peak {(peak.value - before) / _MB:.0f} MB, copy {copied:.3f} s, all {seconds:.2f} s"
    )
    for turn in range(ranks.world):
        ranks.barrier()
        if turn == ranks.rank:
            print(text, flush=True)
    ranks.stop()


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
        for name, default in (("tensor", 2), ("data", 2), ("pipeline", 1), ("hidden", 768), ("layers", 8)):
            parser.add_argument(f"--{name}", type=int, default=default)
        sys.exit(main(parser.parse_args()))
