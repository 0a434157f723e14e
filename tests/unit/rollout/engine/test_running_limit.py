"""The number of responses on one engine: it doubles, halves and grows by steps, and never on old news."""

from __future__ import annotations

from rollout.engine.load import EngineLoad
from rollout.engine.running_limit import RunningLimit


def load(running: int, waiting: int = 0, retracted: int = 0, usage: float = 0.1, largest: int | None = None):
    return EngineLoad(running, waiting, retracted, usage, largest)


def test_the_limit_doubles_until_the_first_overload_and_grows_by_steps_after_it():
    limit = RunningLimit(1000)
    assert limit.value == 32
    for expected in (64, 128, 256):
        limit.look(load(limit.value), limit.value)
        assert limit.value == expected
    limit.look(load(256, retracted=1), 256)
    assert limit.value == 128
    limit.look(load(128), 128)
    assert limit.value == 132


def test_a_limit_that_is_not_used_up_does_not_grow():
    limit = RunningLimit(1000)
    limit.look(load(31), 31)
    assert limit.value == 32


def test_responses_that_have_just_arrived_are_no_queue_and_those_that_stay_are_one():
    limit = RunningLimit(1000)
    limit.look(load(16, waiting=16), 32)
    assert limit.value == 32
    limit.look(load(24, waiting=6), 32)  # a fourth of those running
    assert limit.value == 64
    limit.look(load(24, waiting=40), 64)
    limit.look(load(24, waiting=40), 64)
    assert limit.value == 32


def test_a_fall_waits_until_the_one_before_it_has_taken_effect():
    """Responses under way go on for minutes; each look meanwhile finds the overload that has been dealt with."""
    limit = RunningLimit(64)
    limit.look(None, 64)
    for running in (64, 60, 50, 33):
        limit.look(load(running, retracted=3), running)
        assert limit.value == 32
    limit.look(load(32, retracted=1), 32)
    assert limit.value == 16


def test_a_full_cache_halves_and_a_nearly_full_one_holds():
    limit = RunningLimit(1000)
    limit.look(load(32, usage=0.9), 32)
    assert limit.value == 32
    limit.look(load(32, usage=0.96), 32)
    assert limit.value == 16


def test_refusals_that_came_together_are_one_sign():
    limit = RunningLimit(1000)
    for responses in range(32, 20, -1):
        limit.refused(responses)
    assert limit.value == 16
    for _ in range(100):
        limit.refused(limit.value)
    assert limit.value == 1


def test_the_limit_stays_below_the_setting_and_below_what_the_engine_runs_at_once():
    limit = RunningLimit(100)
    for _ in range(5):
        limit.look(load(limit.value, largest=48), limit.value)
    assert limit.value == 48
    assert RunningLimit(8).value == 8


def test_an_engine_that_cannot_say_gets_as_many_as_the_setting_until_it_refuses():
    limit = RunningLimit(500)
    limit.look(None, 0)
    assert limit.value == 500
    limit.refused(500)
    assert limit.value == 250
    limit.look(None, 250)
    assert limit.value == 254
