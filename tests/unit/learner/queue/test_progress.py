"""A learner's progress, as it is read from Redis."""

from __future__ import annotations

import pytest

from learner.queue import QueueError
from learner.queue.progress import Progress


def test_progress_is_read_as_scripts_write_it():
    stored = {b"epoch": b"3", b"step": b"70", b"uncommitted": b"16", b"finished": b"3", b"reported": b"1700000000"}
    progress = Progress.parse({**stored, b"numbers": b'{"reward": 0.5, "loss": NaN}'}, b"groups")
    assert (progress.epoch, progress.step, progress.uncommitted, progress.finished) == (3, 70, 16, True)
    assert (progress.reported_at, progress.activity, progress.numbers["reward"]) == (1.7e9, "groups", 0.5)
    assert progress.numbers["loss"] != progress.numbers["loss"]
    assert Progress.parse({}, None) == Progress()


@pytest.mark.parametrize(
    "stored", [{b"epoch": b"x"}, {b"numbers": b"[1]"}, {b"numbers": b'{"a": "b"}'}, {b"numbers": b"{"}]
)
def test_damaged_progress_is_said(stored: dict[bytes, bytes]):
    with pytest.raises(QueueError, match="not written by Leeway"):
        Progress.parse(stored, None)
