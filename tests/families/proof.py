"""What is known of one model after its run, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.families.compare import Greedy
from tests.families.engine import NEW_TOKENS

# What SGLang 0.5.23 says of models that it does not run on a CPU; torch_native is the attention that it has there.
CPU_REFUSALS = (
    "AssertionError: assert rope_scaling is not None",  # MLA without yarn: "Only deepseek_yarn is supported for CPU for now"
    "RuntimeError: Expected size for first two dimensions of batch2 tensor",  # MLA with yarn: torch_native knows no latents
)
LOGITS = 1e-4  # limit of the difference of logits
PROMPTS = (3, 5, 7, 9, 12, 15, 18, 21)  # their lengths, in tokens
_VARIED = 8  # fewer different tokens than this: a model that repeats itself proves little


@dataclass(frozen=True)
class Proof:
    """A model's results.

    Attributes:
        logits: largest difference of the learner's from those of transformers.
        tokens: the engine's, with the version before training and with the last; empty where it does not run the model.
        old: the engine's tokens before training, against transformers with the last version: they must differ.
        warnings: what `leeway doctor` says of the model's directory.
        not_run: the engine's own error; "" where it ran.
    """

    logits: float
    tokens: tuple[Greedy, ...]
    old: Greedy | None
    warnings: tuple[str, ...]
    not_run: str

    @property
    def faults(self) -> list[str]:
        """What is wrong. Where doctor warns that the engine computes another model, tokens that are equal are."""
        found = [f"logits differ by {self.logits:.1e}"] if not self.logits < LOGITS else []
        equal = all(one.equal == one.compared for one in self.tokens)
        if self.not_run:
            known = self.not_run.startswith(CPU_REFUSALS)
            return found if known else [*found, "not run, and not by a limit of SGLang's that is known"]
        if not self.warnings and not equal:
            found.append("tokens differ")
        if self.warnings and equal:
            found.append("doctor warns of an engine that computes the same")
        if self.old is not None and self.old.equal == self.old.compared:
            found.append("training changed no token")
        if not self.warnings and min(one.distinct for one in self.tokens) < _VARIED:
            found.append("hardly any different tokens")
        if min(one.compared for one in self.tokens) < len(PROMPTS) * NEW_TOKENS // 2 and equal:
            found.append("most tokens are undecided")
        return found
