"""The token ids of a task's prompt: its text as it is, or through the model's chat template."""

from __future__ import annotations

from rollout.config import TaskConfig
from rollout.data.tokenizer import Tokenizer
from rollout.tasks import Prompt


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, config: TaskConfig) -> list[int]:
    """Returns the token ids of a prompt, the special tokens of the model's format included.

    Messages always go through the chat template, a text with ``task.prompt_format = "chat"``, as one user turn.

    Raises:
        ChatRequestError: the messages, or the template on them, are not as they must be.
        TokenizerError: the model has no chat template.
    """
    if prompt.messages:
        return tokenizer.message_ids(prompt.messages, config.template)
    if config.prompt_format == "chat":
        return tokenizer.message_ids([{"role": "user", "content": prompt.text}], config.template)
    return tokenizer.prompt_ids(prompt.text)
