"""What a process has seen of a run's data: what it says, and what it survives as JSON."""

from __future__ import annotations

import json

import pytest
import structlog

from learner.queue import HaltedError
from learner.queue.keys import Keys
from learner.queue.schema import SCHEMA
from learner.queue.witness import FORGETTABLE_S, REPAIRED_S, Halt, Watch, Witness

KNOWN = Witness("n", 1_795_759_206_069, 3, 70, {"alpha": 40, "beta": 2}, {"alpha": 30, "beta": 0})
FOUND = Witness("n", KNOWN.clock - 60_000, 3, 50, {"alpha": 22}, {"alpha": 10})


def halted(reason: str, found: Witness) -> bytes:
    return json.dumps({"reason": reason, "known": KNOWN.plain(), "found": found.plain()}).encode()


def watch() -> Watch:
    return Watch("demo", Keys("demo"), structlog.get_logger())


def test_a_witness_survives_a_checkpoint():
    assert Witness.of(json.loads(json.dumps(KNOWN.plain()))) == KNOWN


def test_what_is_written_is_remembered_for_longer_than_redis_may_have_forgotten_unnoticed():
    """The clock of an older copy advances by five seconds before anybody who knows better has looked."""
    assert REPAIRED_S > FORGETTABLE_S + 5
    assert KNOWN.floor == KNOWN.clock - 1000 * FORGETTABLE_S


@pytest.mark.parametrize(
    ("reason", "found", "what"),
    [
        ("older", FOUND, "an older copy of this run's data, by at least 60 s. Seen before: accepted 42 (there: 22)"),
        ("empty", Witness("", 0), "has lost this run's data (flushed, or another server). Seen before: accepted 42"),
        ("another", Witness("m", 9), "has other data under this run's name"),
    ],
)
def test_a_halt_says_what_is_missing_and_what_to_do(reason: str, found: Witness, what: str):
    text = Halt.parse(halted(reason, found).decode()).describe("demo")
    assert what in text
    assert text.endswith("or accept the loss: leeway queue accept RUN")


def test_a_halt_is_logged_once_and_so_is_its_end():
    watching = watch()
    watching.created([SCHEMA.encode(), b"n"])
    here = json.dumps(KNOWN.plain()).encode()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(HaltedError, match="leeway queue accept"):
                watching.seen([here, halted("older", FOUND), b""])
        watching.seen([here, b"", b'{"vanished": {"alpha": 2}}'])
        watching.seen([here, b"", b""])
    assert [line["log_level"] for line in lines] == ["error", "warning"]
    assert lines[1]["decision"] == {"vanished": {"alpha": 2}}
    assert watching.known == KNOWN


def test_a_process_that_has_seen_the_data_makes_no_new_data():
    watching = watch()
    assert watching.creation()[1][1] != ""
    watching.created([SCHEMA.encode(), b"n"])
    assert watching.creation()[1] == [SCHEMA, ""]
    watching.created([b"", b""])  # flushed: its nonce stays known
    assert watching.known == Witness("n", 0)
