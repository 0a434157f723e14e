"""The words in which operators are told what a run's learner does."""

from __future__ import annotations

import pytest

from learner.gateway.run_status import state_of
from learner.queue.progress import Progress


@pytest.mark.parametrize(
    ("progress", "halted", "paused", "words"),
    [
        (Progress(), False, False, "no learner"),
        (Progress(), True, False, "no learner"),
        (Progress(), False, True, "no learner, and paused"),
        (Progress(activity="training"), False, False, "training"),
        (Progress(activity="groups"), False, False, "waiting for groups"),
        (Progress(activity="redis"), False, False, "waiting for Redis"),
        (Progress(activity="checkpoint"), False, False, "writing a checkpoint"),
        (Progress(activity="publication"), False, False, "finishing a publication"),
        (Progress(activity="training"), False, True, "paused"),
        (Progress(activity="groups"), True, True, "waiting for a halted queue"),
        (Progress(activity="training", finished=True), False, True, "finished"),
    ],
)
def test_the_state(progress: Progress, halted: bool, paused: bool, words: str):
    assert state_of(progress, halted, paused) == words
