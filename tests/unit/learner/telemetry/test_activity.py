"""The rows that say what the training loop waits for: only waits that last are written, and their end is too."""

from __future__ import annotations

import threading
from typing import Any

from learner.telemetry import activity
from learner.telemetry.activity import Activity


class Scene:
    """An activity with a clock and an outage of Redis that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.away_s: float | None = None
        self.rows: list[tuple[str, float]] = []
        self.activity = Activity(self._event, lambda: self.away_s, lambda: self.now)

    def _event(self, kind: str, what: str, since: float) -> None:
        assert kind == "activity"
        self.rows.append((what, since))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.away_s is not None:
            self.away_s += seconds
        self.activity.look()


def test_a_wait_is_written_once_when_it_lasts_and_so_is_its_end():
    scene = Scene()
    with scene.activity.doing("groups"):
        scene.pass_time(4)
        assert scene.rows == []
        scene.pass_time(2)
        scene.pass_time(60)
    scene.pass_time(1)
    scene.pass_time(1)
    assert scene.rows == [("groups", 1000.0), ("training", 1067.0)]


def test_short_waits_in_a_row_are_no_long_one():
    scene = Scene()
    for _ in range(5):
        with scene.activity.doing("groups"):
            scene.pass_time(3)
    assert scene.rows == []


def test_a_wait_for_groups_while_redis_is_away_is_a_wait_for_redis():
    scene = Scene()
    with scene.activity.doing("groups"):
        scene.pass_time(10)
        scene.away_s = 1.0
        scene.pass_time(9)
        scene.pass_time(9.25)
        scene.away_s = None
        scene.pass_time(1)
    assert scene.rows == [("groups", 1000.0), ("redis", 1009.0), ("groups", 1000.0)]


def test_a_full_disk_ends_nothing(monkeypatch: Any):
    monkeypatch.setattr(activity, "_EVERY_S", 0.001)
    monkeypatch.setattr(activity, "_LASTING_S", 0.0)
    tried, again = [], threading.Event()

    def full(*_: Any, **__: Any) -> None:
        tried.append(1)
        if len(tried) == 2:
            again.set()
        raise OSError("no space left on device")

    made = Activity(full, lambda: None).start()
    for what in ("groups", "checkpoint"):
        with made.doing(what):
            before = len(tried)
            while len(tried) == before and not again.is_set():
                again.wait(0.01)
    assert again.wait(60)
    made.close()


class Heard:
    """A heartbeat that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def beat(self, what: str) -> None:
        self.said.append(what)

    def close(self) -> None:
        self.said.append("gone")


def test_who_asks_a_gateway_is_told_every_second_what_the_loop_does():
    now, heard = [1000.0], Heard()
    made = activity.Activity(lambda *_, **__: None, lambda: None, lambda: now[0], heard)  # pyright: ignore[reportArgumentType]
    made.look()
    with made.doing("groups"):
        made.look()
        now[0] += 6
        made.look()
        made.look()
    made.look()
    made.close()
    assert heard.said == ["training", "training", "groups", "groups", "training", "gone"]
