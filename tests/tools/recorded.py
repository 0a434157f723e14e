"""Recorded groups for tests: made by hand, and written as a worker writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.group_ids import new_group_id
from runtime.rollout_files import RolloutFile
from runtime.rollout_record import (
    RecordedGroup,
    RecordedResponse,
    RecordedSegment,
    RecordedSpan,
    RecordedTurn,
    pack_ids,
)

PROMPT_IDS = [5, 6, 7]


def response(text: str, reward: float | None = 1.0, version: int = 0, **values: Any) -> RecordedResponse:
    """A response of one segment with as many generated tokens as the text has characters, at least one."""
    turns = values.pop("turns", (RecordedTurn(role="assistant", text=text),))
    length = max(1, len(text))
    segment = RecordedSegment(
        context_length=len(PROMPT_IDS),
        tokens=pack_ids(range(1, length + 1)),
        length=length,
        spans=(RecordedSpan(version=version, start=0, end=length),),
        turns=turns,
    )
    return RecordedResponse(segments=(segment,), reward=reward, **values)


def group(time: float = 1000.0, responses: Sequence[RecordedResponse] = (), **values: Any) -> RecordedGroup:
    """A group of the task sort with the prompt 312=, of two responses if none are given."""
    made: dict[str, Any] = {
        "group_id": new_group_id(), "time": time, "worker": "worker-0", "task": "sort", "prompt_id": "sort:312",
        "prompt": (RecordedTurn(role="prompt", text="312="),), "prompt_tokens": pack_ids(PROMPT_IDS),
        "prompt_length": len(PROMPT_IDS), "responses": tuple(responses) or (response("123"), response("999", 0.0)),
    }  # fmt: skip
    return RecordedGroup(**{**made, **values})


def write_records(directory: Path, groups: Iterable[RecordedGroup], worker: str = "worker-0", number: int = 0) -> Path:
    """Appends groups to a worker's file; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = RolloutFile.of(directory, worker, number).path
    with path.open("ab") as file:
        file.writelines(one.line() for one in groups)
    return path
