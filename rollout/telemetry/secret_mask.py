"""Replaces secrets in texts by three asterisks."""

from __future__ import annotations

import re
from collections.abc import Sequence

_STARS = "***"

# What the keys and tokens of widely used services look like, long enough to be no word of a response; and before each the
# texts of which one is in every match: a search for them is a hundred times as quick. Where a pattern has its boundary after
# its first letters, it is because regular expressions that begin with letters are quick to search for.
_USUAL: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("PRIVATE KEY-----",),
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
    ),
    (("sk-",), r"sk-(?<![A-Za-z0-9]sk-)[A-Za-z0-9_-]{16,}"),  # OpenAI, Anthropic
    (("earer",), r"\b[Bb]earer\s+[A-Za-z0-9._~+/-]{16,}=*"),
    (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # AWS, the id
    (
        ("ccess_", "CCESS_", "ccessK"),
        r"(?i:aws_?secret_?access_?key|secret_?access_?key)[\"'\s:=\\]{1,8}[A-Za-z0-9/+]{40}",
    ),
    (("gho_", "ghp_", "ghs_", "ghu_", "ghr_"), r"\bgh[opsur]_[A-Za-z0-9]{30,}"),  # GitHub
    (("github_pat_",), r"github_pat_[A-Za-z0-9_]{30,}"),
    (("hf_",), r"hf_(?<![A-Za-z0-9]hf_)[A-Za-z0-9]{30,}"),  # Hugging Face
    (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}"),  # GitLab
    (("xox",), r"xox[abprs]-[A-Za-z0-9-]{10,}"),  # Slack
    (("AIza",), r"AIza[A-Za-z0-9_-]{35}"),  # Google
)


class SecretMask:
    """Finds secrets by pattern.

    Args:
        patterns: regular expressions, besides the usual ones.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        # One after the other: alternatives of one expression could not have groups and flags of their own.
        known = (*_USUAL, *(((), pattern) for pattern in patterns))
        self._patterns = [(hints, re.compile(pattern, re.DOTALL)) for hints, pattern in known]

    def apply(self, text: str) -> tuple[str, int]:
        """Returns the text with every secret replaced, and how many there were.

        Half of a surrogate pair, which no file can hold as UTF-8, becomes a question mark.
        """
        if not text.isascii():
            text = text.encode(errors="replace").decode()
        found = 0
        for hints, pattern in self._patterns:
            if not hints or any(hint in text for hint in hints):
                text, count = pattern.subn(_STARS, text)
                found += count
        return text, found
