"""Reasoning in a model's text: what stands between <think> and </think> at its beginning."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def opens_reasoning(prompt: str) -> bool:
    """Returns whether a rendered prompt has opened the reasoning already, as some chat templates do."""
    return prompt.rstrip().endswith(OPEN)


def split_reasoning(text: str, opened: bool) -> tuple[str, str]:
    """Returns reasoning and content of an answer; unclosed reasoning is reasoning, and the content empty.

    Line breaks around the two belong to neither.

    Args:
        text: the answer.
        opened: whether the prompt has opened the reasoning.
    """
    stripped = text.lstrip()
    if stripped.startswith(OPEN):
        text = stripped[len(OPEN) :]
    elif not opened:
        return "", text
    reasoning, closed, content = text.partition(CLOSE)
    return reasoning.strip("\n"), content.lstrip("\n") if closed else ""
