"""`leeway rollouts`: what a person sees of recorded groups."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from learner.cli.app import app
from learner.cli.rollouts import commands
from runtime.rollout_record import (
    RecordedCall,
    RecordedGroup,
    RecordedResponse,
    RecordedSegment,
    RecordedSpan,
    RecordedTurn,
    pack_ids,
)
from tests.tools.recorded import group, response, write_records

HOSTILE = "\x1b[31mred\x1b[0m [bold]markup[/bold] \x07"


def leeway(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})


def words(result: Result) -> str:
    """The output without colours, its white space narrowed."""
    assert result.exit_code == 0, result.output
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", result.output).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with three groups, of two workers and two tasks."""
    (tmp_path / "run.json").write_text("{}")
    failed = response("", None, unscored="reward_timeout", message="10 s")
    write_records(
        tmp_path / "rollouts", [group(1000.0, group_id="a" * 36), group(1002.0, [failed, response("5")], task="add")]
    )
    write_records(tmp_path / "rollouts", [group(1001.0, [response("7", -1.0)] * 2)], "worker-1")
    return tmp_path


def test_the_newest_groups_are_shown_one_a_line_oldest_first(run: Path):
    lines = leeway("rollouts", "tail", run).output.splitlines()
    assert len(lines) == 3
    assert all(part in lines[0] for part in ("aaaaaaaa", "sort", "sort:312", "v0", "1.00 0.00", "3-3 tokens", "123"))
    assert "-1.00 -1.00" in lines[1]
    assert "– 1.00" in lines[2]
    assert len(leeway("rollouts", "tail", run, "-n", 1).output.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        (["--task", "add"], ["add"]),
        (["--min-reward", "0.5"], ["sort", "add"]),
        (["--min-reward", "2"], []),
        (["--unscored"], ["add"]),
        (["--unscored", "--task", "sort"], []),
    ],
)
def test_only_the_groups_that_are_wanted_are_shown(run: Path, options: list[str], tasks: list[str]):
    lines = leeway("rollouts", "tail", run, *options).output.splitlines()
    assert [line.split()[2] for line in lines] == tasks


def test_new_groups_are_shown_as_they_come_until_it_is_interrupted(run: Path, monkeypatch: pytest.MonkeyPatch):
    looks = []

    def write_meanwhile(_: float) -> None:
        looks.append(len(looks))
        if len(looks) == 1:  # another file of a worker, and a worker that begins now
            write_records(run / "rollouts", [group(1003.0, task="later")], "worker-0", 1)
            write_records(run / "rollouts", [group(1004.0, task="later"), group(1005.0, task="other")], "worker-9")
        if len(looks) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", write_meanwhile)
    result = leeway("rollouts", "tail", run, "-f", "-n", 1)
    assert result.exit_code == 0
    assert [line.split()[2] for line in result.output.splitlines()] == ["add", "later", "later", "other"]
    result = leeway("rollouts", "tail", run, "-f", "-n", 1, "--task", "later")
    assert [line.split()[2] for line in result.output.splitlines()] == ["later"]


def talk() -> RecordedGroup:
    """A group of an environment with tools: two versions, two segments, a masked response."""
    call = RecordedCall(name="lookup", arguments='{"key": "7"}')
    turns = (
        RecordedTurn(role="assistant", reasoning="I have to look.", calls=(call,)),
        RecordedTurn(role="tool", text="the value is 3357"),
        RecordedTurn(role="assistant", text="It is 3357.", cut=12),
    )
    spans = (RecordedSpan(version=3, start=0, end=2), RecordedSpan(version=4, start=3, end=5))
    segments = (
        RecordedSegment(context_length=3, tokens=pack_ids([11, 12, 13, 14, 15]), length=5, spans=spans, turns=turns),
        RecordedSegment(context=pack_ids([1]), context_length=1, tokens=pack_ids([16]), length=1, spans=spans[:1]),
    )
    whole = RecordedResponse(segments=segments, reward=0.75, parts={"found": 1.0, "short": -0.25})
    masked = response("the key is ***", 0.25, 4, masked=1, left_out="masked", finish="length")
    failed = response("half", None, 4, unscored="reward_error", message="the judge said no")
    prompt = (RecordedTurn(role="user", text="What is the value of key 7? " + "x" * 5000),)
    return group(responses=[whole, masked, failed], prompt=prompt, task="lookup", withdrawn="")


def test_a_group_is_shown_with_turns_tools_parts_versions_lengths_and_reasons(run: Path):
    made = talk()
    write_records(run / "rollouts", [made.model_copy(update={"time": 9999.0})])
    result = leeway("rollouts", "show", run, "--last")
    text = words(result)
    for part in (
        made.group_id,
        "worker worker-0 · task lookup · temperature 1",
        "response 1 of 3",
        "reward 0.75 reward - mean +0.250 found 1 short -0.25 6 tokens, ended by stop",
        "I have to look.",
        '→ lookup({"key": "7"})',
        "the value is 3357",
        "It is 3357. 12 characters are not recorded",
        "version 3: 2 version 4: 2 environment: 1",
        "segment 2, after 1 tokens of context",
        "the key is ***",
        "its token ids are left out: a secret was masked",
        "ended by length",
        "reward – ",
        "unscored: reward_error: the judge said no",
        "5,028 characters; --full shows all",
    ):
        assert part in text, part
    assert "11 12" not in text
    assert "x" * 5000 not in result.output.replace("\n", "").replace(" ", "")


def test_one_response_with_its_token_ids_and_the_whole_prompt(run: Path):
    made = talk()
    write_records(run / "rollouts", [made])
    result = leeway("rollouts", "show", run, made.group_id[-10:], "--response", 1, "--tokens", "--full")
    text = words(result)
    assert "11 12 13 14 15" in text
    assert "response 2 of 3" not in text
    assert "--full" not in text
    assert text.count("x") > 5000


def test_an_id_has_to_be_one_of_the_groups(run: Path):
    same_end = [group(1.0, group_id="1" * 36), group(2.0, group_id="2" + "1" * 35)]
    write_records(run / "rollouts", same_end)
    assert "2 recorded groups have ids that end with '111'" in leeway("rollouts", "show", run, "111").output
    assert "1" * 36 in words(leeway("rollouts", "show", run, "1" * 36))
    unknown = leeway("rollouts", "show", run, "fff")
    assert (unknown.exit_code, "no recorded group has the id 'fff'" in unknown.output) == (2, True)
    assert "the group has 2 responses" in leeway("rollouts", "show", run, "a" * 8, "--response", 3).output
    assert "give a group's id, or --last" in leeway("rollouts", "show", run).output


@pytest.mark.parametrize("command", [("tail",), ("show", "--last")])
def test_what_a_model_wrote_cannot_move_the_terminal_nor_be_markup(tmp_path: Path, command: tuple[str, ...]):
    turn = RecordedTurn(role=HOSTILE, text=HOSTILE, reasoning=HOSTILE, calls=(RecordedCall(name=HOSTILE),))
    said = response("", 1.0, turns=(turn,), parts={HOSTILE: 1.0}, finish=HOSTILE, unscored=HOSTILE)
    made = group(responses=[said], prompt=(turn,), task=HOSTILE, prompt_id=HOSTILE, withdrawn=HOSTILE, worker=HOSTILE)
    write_records(tmp_path, [made])
    result = leeway("rollouts", command[0], tmp_path, *command[1:])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
    assert "[bold]" in result.output


def test_a_place_without_groups_is_an_error_that_says_what_to_do(tmp_path: Path):
    nowhere = leeway("rollouts", "tail", tmp_path)
    assert (nowhere.exit_code, "neither a run directory" in nowhere.output) == (2, True)
    (tmp_path / "run.json").write_text("{}")
    empty = leeway("rollouts", "tail", tmp_path)
    assert (empty.exit_code, "no group is recorded yet" in empty.output) == (2, True)


def test_groups_are_exported_as_lines_or_as_a_table(run: Path, tmp_path: Path):
    write_records(run / "rollouts", [talk()])
    lines, table = tmp_path / "made" / "a.jsonl", tmp_path / "made" / "a.parquet"
    assert words(leeway("rollouts", "export", run, lines)).endswith("a.jsonl: 4 groups")
    assert "1 groups" in words(leeway("rollouts", "export", run, table, "--task", "lookup"))
    assert [json.loads(line)["task"] for line in lines.read_bytes().splitlines()] == ["sort", "add", "lookup", "sort"]
    from pyarrow import parquet

    rows = parquet.read_table(table).to_pylist()
    assert [row["response"] for row in rows] == [0, 1, 2]
    first, _, last = rows
    assert (first["reward"], first["advantage"], dict(first["parts"])) == (0.75, 0.25, {"found": 1.0, "short": -0.25})
    assert (first["versions"], first["tokens"], first["generated"]) == ([3, 4], [[11, 12, 13, 14, 15], [16]], 6)
    assert json.loads(first["turns"])[1] == {"role": "tool", "text": "the value is 3357"}
    assert (last["reward"], last["advantage"], last["unscored"]) == (None, None, "reward_error")
    again = leeway("rollouts", "export", run, lines)
    assert (again.exit_code, "exists: name another file" in again.output) == (2, True)
    assert "end its name with .jsonl or .parquet" in leeway("rollouts", "export", run, tmp_path / "a.csv").output
    assert sorted(path.name for path in lines.parent.iterdir()) == ["a.jsonl", "a.parquet"]
