"""Recorded groups are submitted as a fleet does it: acks counted by reason, within a limit of time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from rollout.client.replay import ReplayResult, main, replay
from runtime.settings import SettingsError
from tests.tools.recorded import group, response, write_records


class Answers:
    """A client that answers with scripted acks; None: never."""

    def __init__(self, *acks: pb.Ack | None) -> None:
        self._acks = list(acks)
        self.groups: list[pb.Group] = []

    async def submit(self, sent: pb.Group) -> pb.Ack:
        ack = self._acks[len(self.groups)]
        self.groups.append(sent)
        if ack is None:
            await asyncio.Event().wait()
        assert ack is not None
        return ack


def ack(outcome: int, **values: Any) -> pb.Ack:
    made = pb.Ack(group_id="g", **values)
    made.outcome = outcome  # type: ignore[assignment]
    return made


async def replayed(file: Path, client: Any, new_ids: bool = False, limit_s: float = 60.0) -> ReplayResult:
    typed: SubmitClient = client
    return await replay(typed, file, new_ids, limit_s)


async def test_acks_are_counted_by_reason_and_unusable_groups_by_line(tmp_path: Path):
    groups = [group(float(number)) for number in range(5)]
    bad = groups[2].model_copy(update={"prompt_tokens": None, "masked": 1})
    file = write_records(tmp_path, [*groups[:2], bad, *groups[3:]])
    with file.open("ab") as written:
        written.write(b'{"half a line": 1}\n' + group(9.0, [response("1", version=-1)] * 2).line())
    stale = ack(pb.OUTCOME_REJECTED, reason="too_stale", field="responses[0].spans[0].version", value="0")
    client = Answers(ack(pb.OUTCOME_ACCEPTED), stale, ack(pb.OUTCOME_DUPLICATE), stale)
    result = await replayed(file, client)
    assert sorted(sent.group_id for sent in client.groups) == sorted(groups[n].group_id for n in (0, 1, 3, 4))
    assert result.taken == 2
    assert result.acks == {"accepted": 1, "duplicate": 1, "rejected: too_stale": 2}
    assert [why[:8] for why in result.unusable] == ["line 3: ", "line 6: ", "line 7: "]
    lines = list(result.lines)
    assert lines[:3] == [
        "1 accepted",
        "1 duplicate",
        "2 rejected: too_stale, such as g: responses[0].spans[0].version = 0",
    ]
    assert lines[3] == "3 not submitted"
    assert "left out (masked)" in lines[4]


async def test_it_gives_up_when_the_time_is_over_and_says_how_many_wait(tmp_path: Path):
    file = write_records(tmp_path, [group(float(number)) for number in range(40)])
    client = Answers(*[None] * 40)
    result = await replayed(file, client, new_ids=True, limit_s=0.05)
    assert len(client.groups) == 32
    assert (result.taken, result.waiting) == (0, 40)
    assert "40 without an ack" in "\n".join(result.lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no credentials"),
        (["--token-file", "/nowhere"], "token_file = /nowhere: No such file"),
        (["--token-file", "{empty}"], "the file is empty"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path: Path, options: list[str], message: str):
    (tmp_path / "empty").write_text("\n")
    file = write_records(tmp_path, [group()])
    words = [one.format(empty=tmp_path / "empty") for one in options]
    with pytest.raises(SettingsError, match=message):
        main([str(file), "--gateway", "127.0.0.1:1", *words])
