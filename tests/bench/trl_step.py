"""TRL's optimizer step, for `tests.bench.step --trl PYTHON`: started with the interpreter of a virtualenv that has TRL.

Arguments: the model's directory, a file with the sequences (see ``tests.bench.step.trl``), the learning rate, and
"keep" or "recompute" (TRL's default: gradient checkpointing). It runs TRL's own GRPOTrainer with its defaults otherwise, in
fp32 on the CPU, on prompts and completions that are given instead of sampled, so that a step is the training only. For every
line on standard input it makes a step, and answers with a line: seconds, CPU seconds, the gradient's norm. Imports nothing
of Leeway.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

GROUP = 8  # responses to a prompt, and sequences in a forward pass: TRL's defaults
ANSWERS = sys.stdout


class Given(GRPOTrainer):
    """GRPOTrainer with completions that are there already."""

    given: dict[str, torch.Tensor]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        return dict(self.given)


class Turns(TrainerCallback):
    """Makes a step for each line of standard input, and answers with what it took."""

    def __init__(self) -> None:
        self._began = (0.0, 0.0)
        self._norm = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self._began = (time.perf_counter(), time.process_time())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            self._norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        began, busy = self._began
        numbers = (time.perf_counter() - began, time.process_time() - busy, self._norm)
        print(*numbers, file=ANSWERS, flush=True)


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The batch as TRL makes it: prompts padded on the left, completions on the right."""

    def pad(name: str, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        values = [torch.tensor(row[name]) for row in rows]
        made = [
            torch.nn.utils.rnn.pad_sequence(v, True, 0, side) for v in (values, [torch.ones_like(v) for v in values])
        ]
        return made[0], made[1]

    prompts, prompt_mask = pad("prompt", "left")
    completions, completion_mask = pad("completion", "right")
    return {
        "prompt_ids": prompts, "prompt_mask": prompt_mask,
        "completion_ids": completions, "completion_mask": completion_mask,
        "advantages": torch.tensor([row["advantage"] for row in rows]),
        "num_items_in_batch": completion_mask.sum(),
    }  # fmt: skip


def main(model: str, sequences: str, lr: str, kept: str) -> None:
    rows = torch.load(sequences)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")), pad_token="a", eos_token="b"
    )
    with tempfile.TemporaryDirectory() as directory:
        settings = GRPOConfig(
            output_dir=directory, use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, num_generations=GROUP, per_device_train_batch_size=GROUP,
            gradient_accumulation_steps=len(rows) // GROUP, learning_rate=float(lr), lr_scheduler_type="constant",
            gradient_checkpointing=kept == "recompute", max_steps=100_000, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Given(
            model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["a"] * len(rows)}), processing_class=tokenizer,
            callbacks=[Turns()],
        )  # fmt: skip
        trainer.given = padded(rows)
        trainer.train()


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main(*sys.argv[1:])
