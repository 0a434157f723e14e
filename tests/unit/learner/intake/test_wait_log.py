"""When the learner says what it waits for."""

from __future__ import annotations

import structlog

from learner.intake.wait_log import WaitLog


def test_a_line_after_half_a_minute_and_then_every_five():
    now = 1000.0
    with structlog.testing.capture_logs() as lines:
        waits = WaitLog(wanted=16, clock=lambda: now)
        for second in range(0, 700, 10):
            now = 1000.0 + second
            waits.waiting(step=7, have=3)
    assert [line["waited_s"] for line in lines] == [30, 330, 630]
    assert {(line["step"], line["have"], line["wanted"]) for line in lines} == {(7, 3, 16)}
    assert len({line["since"] for line in lines}) == 1
    assert waits.seconds() == 690
