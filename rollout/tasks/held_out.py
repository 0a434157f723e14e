"""Which prompts are kept for evaluation: a fixed share, by a digest of their ids, the same in every process and every run."""

from __future__ import annotations

import hashlib

_SCALE = float(1 << 64)


def is_held_out(prompt_id: str, share: float) -> bool:
    """Whether a prompt is for evaluation and is not trained on.

    It depends on the prompt's id alone, so that workers need not agree on anything, a file to which rows are added keeps its
    held-out rows, and those of a smaller share are among those of a larger one.

    Args:
        prompt_id: the prompt's id.
        share: share of all prompts that are held out, in [0, 1).
    """
    if share <= 0.0:
        return False
    digest = hashlib.blake2b(prompt_id.encode(), digest_size=8, person=b"leeway-held-out").digest()
    return int.from_bytes(digest, "big") / _SCALE < share
