"""What `python -m tests.families` calls equal, undecided and wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.families.compare import UNDECIDED, Greedy, greedy
from tests.families.engine import NEW_TOKENS, cause
from tests.families.proof import CPU_REFUSALS, Proof

WHOLE = 8 * NEW_TOKENS
GOOD = Greedy(equal=WHOLE, compared=WHOLE, undecided=0, gap=0.0, distinct=40)
SOUND = Proof(1e-6, (GOOD, GOOD), replace(GOOD, equal=3, compared=11), (), "")


def counting(tokens: Tensor) -> SimpleNamespace:
    """Stands in for a model: the next token is the last one plus 1; after token 5 it is hardly likelier than token 0."""
    logits = torch.nn.functional.one_hot(tokens + 1, 11).float()
    logits[tokens == 5, 0] = 1 - UNDECIDED / 2
    return SimpleNamespace(logits=logits)


def test_tokens_are_compared_up_to_the_first_that_differs_or_is_undecided():
    prompts = [[7, 1], [1], [2, 4]]
    answers = [[2, 3, 4], [2, 9, 4], [5, 0, 1]]
    assert greedy(counting, prompts, answers) == Greedy(
        equal=3 + 1 + 1, compared=3 + 2 + 1, undecided=1, gap=1.0, distinct=7
    )


def test_the_first_error_of_a_log_is_the_cause():
    log = "warning: no Error\nTraceback (most recent call last):\n  raise\nsgl.KernelError: no such kernel\n"
    assert cause(log + "later\nRuntimeError: died\n") == "sgl.KernelError: no such kernel"
    assert cause("all is well\n") is None


def test_an_error_without_a_message_is_told_by_its_line_of_source():
    log = '  File "rope.py", line 3, in rope\n    assert scaling is not None\n           ^^^^^^^\nAssertionError\n'
    assert cause(log) == "AssertionError: assert scaling is not None"


def test_a_sound_proof_has_no_faults():
    assert SOUND.faults == []
    assert replace(SOUND, tokens=(), old=None, not_run=CPU_REFUSALS[0]).faults == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"logits": 2e-4}, "logits differ by 2.0e-04"),
        ({"logits": float("nan")}, "logits differ by nan"),
        ({"tokens": (GOOD, replace(GOOD, equal=WHOLE - 1))}, "tokens differ"),
        ({"warnings": ("warn model: attention_factor",)}, "doctor warns of an engine that computes the same"),
        ({"not_run": "TimeoutError: timed out"}, "not run, and not by a limit of SGLang's that is known"),
        ({"old": GOOD}, "training changed no token"),
        ({"tokens": (replace(GOOD, distinct=2), GOOD)}, "hardly any different tokens"),
        ({"tokens": (replace(GOOD, equal=30, compared=30), GOOD)}, "most tokens are undecided"),
    ],
)
def test_faults(change: dict[str, object], fault: str):
    assert replace(SOUND, **change).faults == [fault]


def test_tokens_may_differ_where_doctor_warns_of_the_engine():
    differing = replace(GOOD, equal=20, compared=28, gap=0.3, distinct=1)
    assert replace(SOUND, tokens=(differing, differing), warnings=("warn model: attention_factor",)).faults == []
