"""Tasks: prompts as a function of (seed, index), exact rewards, and errors that name the option."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.tasks import Prompt, TaskError, load_task, make_task
from rollout.tasks.base import Task
from rollout.tasks.policy import Generation

PROCEDURAL = ("sort", "add", "sumto")
INDICES = st.integers(min_value=0, max_value=10**9)


@pytest.mark.parametrize("name", PROCEDURAL)
@given(seed=st.integers(-(2**31), 2**31), index=INDICES)
def test_a_prompt_is_a_function_of_seed_and_index_and_its_solution_earns_one(name: str, seed: int, index: int):
    task, again = load_task(name, seed, {}), load_task(name, seed, {})
    again.prompt(index + 1)  # what else was asked does not matter
    prompt = task.prompt(index)
    assert prompt == again.prompt(index)
    solution = task.solution(prompt)
    assert solution is not None
    assert task.reward(prompt, solution) == 1.0
    assert 1 <= len(prompt.prompt_id.encode()) <= 256


@pytest.mark.parametrize("name", PROCEDURAL)
def test_another_seed_gives_other_prompts(name: str):
    first, second = ([load_task(name, seed, {}).prompt(index).text for index in range(50)] for seed in (0, 1))
    assert first != second


def test_sort_scores_exactly():
    task = load_task("sort", 0, {})
    prompt = task.prompt(3)
    digits = prompt.text[:-1]
    assert len(digits) == 6
    assert prompt.data == "".join(sorted(digits))
    for wrong in ("", prompt.data[:-1], prompt.data + "0", prompt.data + "<pad>", " " + prompt.data):
        assert task.reward(prompt, wrong) == 0.0


def test_add_wants_the_last_digit_first():
    task = load_task("add", 0, {"digits": 3})
    for index in range(20):
        prompt = task.prompt(index)
        left, right = prompt.text[:-1].split("+")
        assert len(left) == len(right) == 3
        assert task.reward(prompt, str(int(left) + int(right))[::-1]) == 1.0
        assert task.reward(prompt, str(int(left) + int(right) + 1)[::-1]) == 0.0


@pytest.mark.parametrize(
    ("response", "reward"),
    [("98", 1.0), ("89", 1.0), ("773", 1.0), ("99", 0.0), ("", 0.0), ("+98", 0.0), ("٩8", 0.0), ("9800000", 0.0)],
)
def test_sumto_takes_any_digits_that_add_up(response: str, reward: float):
    task = load_task("sumto", 0, {})
    index = next(index for index in range(1000) if task.prompt(index).data == 17)
    assert task.reward(task.prompt(index), response) == reward


@pytest.fixture
def gsm8k_file(tmp_path: Path) -> Path:
    rows = [
        {"question": "A has 1,000 and 100?", "answer": "Add <<1000+100=1100>>1100.\n#### 1,100"},
        {"question": "Half of 7?", "answer": "7/2\n#### 3.5"},
        {"question": "2-5?", "answer": "minus three\n#### -3"},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_scores_by_value_and_never_runs_out(gsm8k_file: Path):
    task = load_task("gsm8k", 0, {"path": str(gsm8k_file)})
    passes = [[task.prompt(3 * number + offset).prompt_id for offset in range(3)] for number in range(8)]
    assert all(sorted(ids) == ["gsm8k:0", "gsm8k:1", "gsm8k:2"] for ids in passes)
    assert len({tuple(ids) for ids in passes}) > 1
    prompt = next(task.prompt(index) for index in range(3) if task.prompt(index).prompt_id == "gsm8k:0")
    for right in ("it is \\boxed{1100}", "\\boxed{1100.0}", "The answer is 1100", task.solution(prompt)):
        assert task.reward(prompt, str(right)) == 1.0
    for wrong in ("\\boxed{1101}", "", "no idea", "\\boxed{}"):
        assert task.reward(prompt, wrong) == 0.0
    assert task.solution(prompt) == "Add 1100.\n\\boxed{1100}"


def test_gsm8k_scores_a_right_answer_however_little_of_the_cpu_it_gets(
    gsm8k_file: Path, monkeypatch: pytest.MonkeyPatch
):
    # as if the wall clock had run out before the first instruction
    monkeypatch.setattr(signal, "alarm", lambda seconds: signal.raise_signal(signal.SIGALRM) if seconds else None)
    task = load_task("gsm8k", 0, {"path": str(gsm8k_file)})
    for index in range(3):
        prompt = task.prompt(index)
        assert task.reward(prompt, f"\\boxed{{{prompt.data['final']}}}") == 1.0


def test_gsm8k_names_a_missing_file_and_a_bad_line(tmp_path: Path):
    with pytest.raises(TaskError, match=r"task\.options\.path = '/no/such\.jsonl': no such file"):
        load_task("gsm8k", 0, {"path": "/no/such.jsonl"})
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "q", "answer": "no final number"}\n')
    with pytest.raises(TaskError, match=r"bad\.jsonl, line 1"):
        load_task("gsm8k", 0, {"path": str(bad)})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": 1, "answer": "#### 2"}', "question = 1 is no text"),
        ('{"question": "q", "answer": "#### "}', "nothing after '####'"),
        ("[]", "no JSON object, but '[]'"),
        ('{"question": "q"}', "'answer'"),
        ('{"question": "\xff"}', "line 2"),
    ],
)
def test_gsm8k_names_a_row_that_does_not_fit(tmp_path: Path, row: str, message: str):
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"question": "q", "answer": "#### 1"}\n' + row.encode("latin-1"))
    with pytest.raises(TaskError, match=r"bad\.jsonl, line 2: expected question and answer") as error:
        load_task("gsm8k", 0, {"path": str(bad)})
    assert message in str(error.value)


def test_gsm8k_reads_rows_with_every_character_and_passes_over_empty_lines(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": "a\u2028b\x85c", "answer": "#### 1"}\n\n{"question": "d", "answer": "#### 2"}\r\n')
    task = load_task("gsm8k", 0, {"path": str(path)})
    assert task.size == 2
    assert {task.prompt(index).text.split("\n")[0] for index in range(2)} == {"a\u2028b\x85c", "d"}


def test_gsm8k_passes_over_a_byte_order_mark(gsm8k_file: Path):
    gsm8k_file.write_bytes(b"\xef\xbb\xbf" + gsm8k_file.read_bytes())
    assert load_task("gsm8k", 0, {"path": str(gsm8k_file)}).size == 3


def test_a_task_of_ones_own():
    task = load_task("tests.tools.fleet_tasks:Reverse", 5, {})
    prompt = task.prompt(0)
    assert isinstance(task, Task)
    assert task.reward(prompt, prompt.text[:-1][::-1]) == 1.0
    assert task.solution(prompt) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("srot", {}, "task.name = 'srot': not one of sort, add, sumto, gsm8k, "),
        ("no.such.module:Task", {}, "cannot be imported"),
        ("tests.tools.fleet_tasks:Missing", {}, "cannot be imported"),
        ("tests.tools.fleet_tasks:NotATask", {}, "not a subclass"),
        ("sort", {"digit": 3}, "does not take them"),
        ("sort", {"digits": 0}, "digits = 0: at least 1"),
        ("sumto", {"largest": 100}, "largest = 100"),
        ("tests.tools.fleet_tasks:Broken", {"how": "key"}, "cannot load its data: KeyError: 'question'"),
        ("tests.tools.fleet_tasks:Broken", {"how": "file"}, "cannot load its data: FileNotFoundError: "),
        ("tests.tools.fleet_tasks:Broken", {"how": "empty"}, "has size = 0: at least 1 prompt"),
    ],
)
def test_what_cannot_be_loaded_is_named(name: str, options: dict, message: str):
    with pytest.raises(TaskError) as error:
        load_task(name, 0, options)
    assert message in str(error.value)


class Judged(Task):
    """Rewards the text "12", with a coroutine."""

    def prompt(self, index: int) -> Prompt:
        return Prompt(str(index), "12=")

    async def reward(self, prompt: Prompt, response: str) -> float:
        return float(response == "12")


class OneAnswer:
    """A policy that generates "12", and keeps what it was asked."""

    base_url = api_key = model = ""
    prompt_tokens = (14, 1, 2, 11)

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    async def generate(self, tokens: Sequence[int], **_: Any) -> Generation:
        self.asked.append(list(tokens))
        return Generation([1, 2, 12], "12", "stop", [(0, 0, 3)])


async def test_a_task_without_a_rollout_generates_once_and_judges_once():
    policy: Any = OneAnswer()
    assert await Judged(0).rollout(Prompt("p", "12="), policy) == 1.0
    assert policy.asked == [[14, 1, 2, 11]]


def test_a_prompt_is_a_text_or_messages():
    assert Prompt("p", messages=[{"role": "user", "content": "a"}]).text == ""
    with pytest.raises(TaskError, match="prompt 'p' has text and messages: give it one of the two"):
        Prompt("p", "a", messages=[{"role": "user", "content": "a"}])


def test_a_task_that_cannot_judge_is_named():
    with pytest.raises(TaskError, match=r"Mute defines none of reward, group_rewards, rollout"):
        make_task("tests.tools.fleet_tasks:Mute", 0, {})
