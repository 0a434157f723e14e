"""Which prompts an engine can answer, known before they are sent: one that it cannot must not spoil its neighbours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class PromptProblem:
    """Why a prompt cannot be answered.

    Attributes:
        finish: too long for the engine, or refused for another reason.
        message: for the log.
    """

    finish: Literal["too_long", "refused"]
    message: str


@dataclass(frozen=True)
class PromptLimits:
    """What an engine takes.

    Attributes:
        vocab_size: ids must lie in [0, vocab_size).
        context: most tokens of a prompt and its response; None: not known.
        longest: most tokens of a prompt; None: not known.
    """

    vocab_size: int
    context: int | None = None
    longest: int | None = None

    def as_told(self, server_info: Mapping[str, Any]) -> PromptLimits:
        """Returns the limits with what an SGLang server says of itself at /server_info."""
        context, below = server_info.get("context_length"), server_info.get("max_req_input_len")
        return replace(
            self,
            context=context if isinstance(context, int) and context > 0 else self.context,
            longest=below - 1 if isinstance(below, int) and below > 1 else self.longest,
        )

    def problem(self, prompt: Sequence[int], max_new_tokens: int) -> PromptProblem | None:
        """Returns why a prompt cannot be answered; None if nothing speaks against it."""
        if not prompt:
            return PromptProblem("refused", "the prompt is empty")
        if min(prompt) < 0 or max(prompt) >= self.vocab_size:  # it would kill the server
            wrong = next(token for token in prompt if not 0 <= token < self.vocab_size)
            return PromptProblem("refused", f"token id {wrong} is outside the vocabulary [0, {self.vocab_size})")
        if self.context is not None and len(prompt) + max_new_tokens > self.context:
            return PromptProblem(
                "too_long",
                f"{len(prompt)} tokens, and sampling.max_new_tokens = {max_new_tokens} for the response, are more than the "
                f"engine's context of {self.context}",
            )
        if self.longest is not None and len(prompt) > self.longest:
            return PromptProblem(
                "too_long", f"{len(prompt)} tokens: the engine has memory for prompts of {self.longest}"
            )
        return None


def context_length(model: Path) -> int | None:
    """Reads the context length that a Hugging Face directory gives its model; None where that takes more than one number."""
    try:
        config = json.loads((model / "config.json").read_text())
    except (OSError, ValueError):
        return None
    text = config.get("text_config") or config
    scaled = any("factor" in (text.get(key) or {}) for key in ("rope_scaling", "rope_parameters"))
    length = text.get("max_position_embeddings")
    return None if scaled or not isinstance(length, int) or length <= 0 else length
