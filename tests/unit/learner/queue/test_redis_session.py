"""How long a session waits for Redis, by a clock of its own: nothing here takes the time that it speaks of."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
import structlog
from redis.exceptions import OutOfMemoryError

from learner.config import QueueConfig
from learner.queue import (
    FencedError,
    HaltedError,
    LearnerQueue,
    MemoryFullError,
    QueueError,
    StillAwayError,
    UnavailableError,
)
from learner.queue.redis_session import RedisSession


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """A Redis that fails with ``error`` until ``back`` seconds, and then answers; each failure takes ``slow`` seconds."""

    def __init__(self, clock: Clock, error: redis.RedisError, back: float, slow: float = 0.0) -> None:
        self.clock, self.error, self.back, self.slow = clock, error, back, slow
        self.connection_pool = SimpleNamespace(connection_kwargs={})

    def answer(self) -> str:
        if self.clock.now < self.back:
            self.clock.now += self.slow
            raise self.error
        return "answer"


LOADING = redis.BusyLoadingError("LOADING Redis is loading the dataset in memory")
REFUSED = redis.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused.")


def session_with(error: redis.RedisError, back: float, slow: float = 0.0) -> tuple[RedisSession, Server, Clock]:
    clock = Clock()
    server = Server(clock, error, back, slow)
    return RedisSession(cast(Any, server), 900.0, clock.read, clock.sleep), server, clock


@pytest.mark.parametrize("error", [LOADING, REFUSED, redis.TimeoutError("Timeout reading from socket")])
def test_an_outage_below_the_limit_is_waited_for(error: redis.RedisError):
    session, server, clock = session_with(error, back=890)
    with structlog.testing.capture_logs() as lines:
        assert session.with_retry(server.answer) == "answer"
    assert 890 <= clock.now < 892
    waits = [line for line in lines if line["event"] == "waiting for redis"]
    assert waits[0]["waited_s"] == 0
    assert waits[0]["outage_s"] == 900
    assert 25 <= len(waits) <= 30  # now and then, not at every try
    assert lines[-1]["event"] == "redis answers again"


def test_an_outage_above_the_limit_is_an_error_that_says_so():
    session, server, clock = session_with(REFUSED, back=1e9)
    with pytest.raises(UnavailableError, match=r"Connection refused.*so for 90\d s, and queue\.outage_s = 900"):
        session.with_retry(server.answer)
    assert 900 <= clock.now < 902


def test_the_error_of_a_full_redis_stays_what_it_is():
    session, server, _ = session_with(OutOfMemoryError("OOM command not allowed"), back=1e9)
    with pytest.raises(MemoryFullError):
        session.with_retry(server.answer)


def test_a_caller_with_little_patience_is_sent_away_until_the_outage_reaches_its_limit():
    session, server, clock = session_with(REFUSED, back=1e9, slow=10.0)
    told: list[float] = []
    session.while_waiting(lambda: told.append(clock.now))
    while clock.now < 880:
        started = clock.now
        with session.waiting_at_most(2.0), pytest.raises(StillAwayError):
            session.with_retry(server.answer)
        assert clock.now - started < 15
    caught = []
    for _ in range(4):
        with session.waiting_at_most(2.0), pytest.raises(UnavailableError) as raised:
            session.with_retry(server.answer)
        caught.append(type(raised.value))
    assert caught[-1] is UnavailableError
    assert told == []  # it tells by itself that it is alive


def test_a_caller_that_waits_is_said_to_be_alive_again_and_again():
    session, server, clock = session_with(REFUSED, back=600, slow=10.0)
    told = [0.0]
    session.while_waiting(lambda: told.append(clock.now))
    session.with_retry(server.answer)
    assert max(after - before for before, after in itertools.pairwise(told)) < 15
    assert told[-1] > 580


def test_every_outage_has_the_whole_limit():
    session, server, clock = session_with(REFUSED, back=800)
    session.with_retry(server.answer)
    clock.now += 5000.0
    server.back = clock.now + 800
    assert session.with_retry(server.answer) == "answer"


def test_what_waiting_does_not_mend_is_an_error_at_once():
    session, server, clock = session_with(redis.AuthenticationError("WRONGPASS invalid"), back=1e9)
    with pytest.raises(QueueError, match="refuses the credentials"):
        session.with_retry(server.answer)
    assert clock.now == 0


def test_credentials_that_are_refused_later_are_waited_for_as_a_password_is_being_rotated():
    session, server, clock = session_with(redis.AuthenticationError("WRONGPASS invalid"), back=0)
    assert session.with_retry(server.answer) == "answer"
    server.back = 600.0
    assert session.with_retry(server.answer) == "answer"
    assert 600 <= clock.now < 602
    server.back = 1e9
    with pytest.raises(UnavailableError, match=r"refuses the credentials.*; so for 90\d s, and queue\.outage_s = 900"):
        session.with_retry(server.answer)


def test_a_learner_that_starts_before_redis_waits_for_it_and_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    clock = Clock()

    def session(client: redis.Redis, outage_s: float) -> RedisSession:
        return RedisSession(client, outage_s, clock.read, clock.sleep)

    monkeypatch.setattr("learner.queue.learner_queue.RedisSession", session)
    with pytest.raises(UnavailableError, match=r"queue\.outage_s = 30"):
        LearnerQueue.open(QueueConfig(url="redis://127.0.0.1:1/0", run="r", outage_s=30.0))
    assert 30 <= clock.now < 32


def test_a_halted_queue_is_an_error_at_once_and_is_waited_for_only_in_a_take():
    """A halt is over when an operator has decided: no limit of an outage ends the wait."""
    session, server, clock = session_with(REFUSED, back=0)
    repeated: list[float] = []
    over = 5000.0

    def look(now: bool) -> None:
        if clock.now < over:
            raise HaltedError("the queue is halted")

    session.before_each(look)
    session.on_restart(lambda: repeated.append(clock.now))
    with pytest.raises(HaltedError):
        session.with_retry(server.answer)
    assert clock.now == 0
    with session.waiting_at_most(2.0), pytest.raises(StillAwayError, match="the queue is halted"):
        session.with_retry(server.answer)
    assert 1 < clock.now <= 2
    with session.waiting_at_most(1e9):
        assert session.with_retry(server.answer) == "answer"
    assert over <= clock.now < over + 2
    assert repeated == [clock.now]  # what was written last is written again, once


def test_an_error_that_a_halt_explains_is_the_halt():
    session, _, _ = session_with(REFUSED, back=0)
    looks: list[bool] = []

    def look(now: bool) -> None:
        looks.append(now)
        if now:
            raise HaltedError("the queue is halted")

    def fenced() -> None:
        raise FencedError("a newer learner has started")

    session.before_each(look)
    with pytest.raises(HaltedError):
        session.with_retry(fenced)
    assert looks == [False, True]
    session.before_each(lambda now: None)
    with pytest.raises(FencedError):
        session.with_retry(fenced)
