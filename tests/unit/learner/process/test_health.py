"""What a rank tells its supervisor."""

from __future__ import annotations

from learner.process.health import RankHealth


def test_a_rank_whose_queue_stands_still_is_alive_and_not_ready():
    health = RankHealth(60.0)
    health.opened()
    health.progress()
    health.halted("the queue is halted")
    assert (health.alive(), health.ready()) == (None, "the queue is halted")
    health.halted(None)
    assert (health.alive(), health.ready()) == (None, None)
