"""The task dataset as a worker uses it: passes, ids, judgement, fingerprints, and what happens to unusable rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollout.config import TaskConfig
from rollout.data.fingerprint import fingerprint
from rollout.data.prompt_cursor import CursorError, PromptSource
from rollout.data.prompt_order import PromptOrder
from rollout.environments.loading import TaskSpec, load
from rollout.tasks import Prompt, Task, TaskError, load_task, make_task
from rollout.tasks.held_out import is_held_out
from rollout.tasks.judged_response import JudgedResponse
from tests.unit.rollout.tasks.dataset.conftest import WriteLines

GSM8K = Path(__file__).parents[6] / "shared" / "data" / "gsm8k"


def dataset(path: Path | str, seed: int = 0, **options: Any) -> Task:
    return load_task("dataset", seed, {"path": str(path), **options})


def prompts(task: Task, number: int = 0) -> list[Prompt]:
    """The prompts of a pass."""
    assert task.size is not None
    return [task.prompt(number * task.size + place) for place in range(task.size)]


def test_rows_are_asked_in_an_order_of_each_pass_and_seed_or_in_that_of_the_file(write_lines: WriteLines):
    path = write_lines([{"prompt": f"{number}?", "answer": number} for number in range(50)])
    orders = [
        [prompt.text for prompt in prompts(dataset(path, seed), number)] for seed in range(2) for number in range(2)
    ]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    plain = dataset(path, shuffle=False)
    assert [prompt.text for number in range(2) for prompt in prompts(plain, number)] == [
        f"{number}?" for number in range(50)
    ] * 2


def test_a_prompt_is_a_function_of_seed_and_index(write_lines: WriteLines):
    path = write_lines([{"prompt": f"{number}?"} for number in range(50)])
    task, again = dataset(path, 3), dataset(path, 3)
    again.prompt(70)  # what else was asked does not matter
    assert [task.prompt(index) for index in (49, 0, 50, 777)] == [again.prompt(index) for index in (49, 0, 50, 777)]


def test_what_is_data_is_no_error(tmp_path: Path):
    rows = [
        '\ufeff{"prompt": "a\u2028b\x85c", "answer": 42}',
        "",
        '{"prompt": "float?", "answer": 0.5, "hint": null}\r',
        '{"prompt": "whole?", "answer": 72.0}',
        '{"prompt": "truth?", "answer": true}',
        '{"prompt": "several?", "answer": ["a", 2]}',
        "  \r",
        '{"prompt": 7, "answer": "seven", "other": NaN, "bytes": [Infinity]}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(rows).encode())
    task = dataset(path, shuffle=False, bad_lines=0)
    assert [(prompt.text, prompt.data["answer"]) for prompt in prompts(task)] == [
        ("a\u2028b\x85c", 42),
        ("float?", 0.5),
        ("whole?", 72),
        ("truth?", "true"),
        ("several?", ["a", 2]),
        ("7", "seven"),
    ]
    assert task.prompt(1).data["row"] == {"answer": 0.5, "hint": None}
    assert task.prompt(5).data["row"] == {"answer": "seven"}  # JSON has no NaN


def test_unusable_rows_are_named_counted_and_skipped_up_to_a_share(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture
):
    bad = [b"{", b'{"prompt": "caf\xe9"}', {"prompt": " "}, {"prompt": ["a"]}, b"[]", b'{"prompt": "\\ud800"}', {}]
    path = write_lines([*({"prompt": f"{number}?"} for number in range(13)), *bad])
    task = dataset(path, bad_lines=0.35)
    assert task.size == 13
    assert [record.getMessage() for record in caplog.records] == [
        f"row skipped: {path}:14: no JSON: Expecting property name enclosed in double quotes at column 2",
        f"row skipped: {path}:15: no UTF-8: byte 0xe9 at column 16",
        f"row skipped: {path}:16: nothing is asked: the text is empty",
        f"row skipped: {path}:17: column 'prompt' = ['a'] is no text; a conversation is asked with columns.messages = "
        "'prompt'",
        f"row skipped: {path}:18: no JSON object, but '[]'",
        "7 of 20 rows skipped: bad_text 1, no_prompt 3, not_an_object 1, not_json 1, not_utf8 1",
    ]
    with pytest.raises(TaskError) as error:
        dataset(path, bad_lines=0.34)
    assert str(error.value).startswith(
        "task.options.bad_lines = 0.34: 7 of 20 rows are unusable (bad_text 1, no_prompt 3, not_an_object 1, not_json 1, "
        f"not_utf8 1); the first is {path}:14: no JSON: "
    )


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"question": "q"}, {}, "no column 'prompt'; there are question"),
        ({"prompt": "q"}, {"answer": "final"}, "column 'final' is not there"),
        ({"prompt": "q", "final": None}, {"answer": "final"}, "column 'final' = None is no answer"),
        ({"prompt": "q", "final": ""}, {"answer": "final"}, "column 'final' = '' is no answer"),
        ({"prompt": "q", "final": [1, None]}, {"answer": "final"}, "column 'final' = [1, None] is no answer"),
        ({"prompt": "q", "n": None}, {"id": "n"}, "id = None: expected 1 to 256 bytes"),
        ({"prompt": "q", "n": "a\nb"}, {"id": "n"}, "id = 'a\\nb': expected 1 to 256 bytes"),
        ({"prompt": "q", "n": "\u00e9" * 129}, {"id": "n"}, "expected 1 to 256 bytes"),
        ({"m": "q"}, {"messages": "m"}, "m = 'q' is no list of messages; a text is asked with columns.prompt = 'm'"),
    ],
)
def test_columns_that_do_not_fit_are_named(write_lines: WriteLines, row: dict, columns: dict, message: str):
    with pytest.raises(TaskError) as error:
        dataset(write_lines([row]), columns=columns)
    assert "rows.jsonl:1: " in str(error.value)
    assert message in str(error.value)


def test_ids_without_a_column_stay_when_rows_are_added_and_when_the_template_changes(write_lines: WriteLines):
    rows = [{"q": f"{number}?", "answer": number} for number in range(300)]
    before = dataset(write_lines(rows), columns={"prompt": "q"})
    more = [{"q": "new?", "answer": 0}, *reversed(rows)]
    after = dataset(write_lines(more, "more.jsonl"), template="Answer: {q}", system="Be brief.")
    held = [
        {prompt.data["answer"] for prompt in prompts(task) if is_held_out(prompt.prompt_id, 0.2)}
        for task in (before, after)
    ]
    assert 30 < len(held[0]) < 90
    assert held[0] == held[1] - {0} | (held[0] & {0})
    ids = {prompt.prompt_id for prompt in prompts(before)}
    assert len(ids) == 300
    assert all(1 <= len(one.encode()) <= 256 for one in ids)


def test_rows_that_ask_the_same_have_the_same_id_and_an_id_that_stands_for_two_prompts_is_refused(
    write_lines: WriteLines, caplog: pytest.LogCaptureFixture
):
    rows = [{"n": 1, "prompt": "a"}, {"n": 2, "prompt": "b"}, {"n": 1, "prompt": "a"}]
    for columns in ({}, {"id": "n"}):
        task = dataset(write_lines(rows), columns=columns, shuffle=False)
        assert task.prompt(0) == task.prompt(2)
        assert len({prompt.prompt_id for prompt in prompts(task)}) == 2
        assert caplog.records[-1].getMessage() == "1 rows ask again what an earlier one asks"
    path = write_lines([*rows, {"n": 2, "prompt": "c"}])
    with pytest.raises(TaskError) as error:
        dataset(path, columns={"id": "n"})
    assert f"columns.id = 'n': {path}:2 and {path}:4 have one id and ask different things" in str(error.value)


def test_a_system_turn_comes_before_a_text_and_before_a_conversation_without_one(write_lines: WriteLines):
    user = {"role": "user", "content": "1+1?"}
    own = {"role": "system", "content": "Its own."}
    system = {"role": "system", "content": "Be brief."}
    task = dataset(write_lines([{"prompt": "1+1?"}]), system="Be brief.")
    assert (task.prompt(0).text, task.prompt(0).messages) == ("", [system, user])
    path = write_lines([{"m": [user]}, {"m": [own, user]}, {"m": [{**own, "role": "developer"}, user]}])
    asked = [
        prompt.messages
        for prompt in prompts(dataset(path, columns={"messages": "m"}, system="Be brief.", shuffle=False))
    ]
    assert asked == [[system, user], [own, user], [{**own, "role": "developer"}, user]]
    asked = [prompt.messages for prompt in prompts(dataset(path, columns={"messages": "m"}, shuffle=False))]
    assert asked[:2] == [[user], [own, user]]


def test_templates_take_nulls_as_nothing_and_name_a_column_that_a_row_has_not(write_lines: WriteLines):
    template = "{q} {extra.hint}"
    path = write_lines([{"q": "a", "extra": {"hint": 5}}, {"q": "b", "extra": {"hint": None}}])
    assert [prompt.text for prompt in prompts(dataset(path, template=template, shuffle=False))] == ["a 5", "b "]
    with pytest.raises(TaskError, match=r"rows\.jsonl:1: no column 'extra\.hint'; there are q"):
        dataset(write_lines([{"q": "a"}]), template=template)


def test_rows_are_chosen_by_value_and_number(write_lines: WriteLines):
    rows = [{"prompt": f"{n}?", "level": n % 3, "meta": {"ok": n % 2 == 0}} for n in range(30)]
    path = write_lines([*rows, b"{"])  # beyond the limit: never read
    task = dataset(path, where={"level": 1, "meta.ok": True}, limit=3, shuffle=False, bad_lines=0)
    assert [prompt.text for prompt in prompts(task)] == ["4?", "10?", "16?"]
    with pytest.raises(TaskError, match=r"empty: none of 31 rows has where = \{'level': True\}"):
        dataset(path, where={"level": True}, bad_lines=0.5)
    with pytest.raises(TaskError, match="empty: none of 0 rows"):
        dataset(write_lines([], "empty.jsonl"))


def test_files_are_one_data_set_in_the_order_of_their_names(write_lines: WriteLines, tmp_path: Path):
    for name in ("b", "empty", "a", "c"):
        write_lines([] if name == "empty" else [{"prompt": f"{name}{n}"} for n in range(3)], f"data/{name}.jsonl")
    wanted = [f"{name}{n}" for name in "abc" for n in range(3)]
    for path in (tmp_path / "data", tmp_path / "data/*.jsonl"):
        assert [prompt.text for prompt in prompts(dataset(path, shuffle=False))] == wanted
    write_lines([b"{"], "data/b.jsonl")
    with pytest.raises(TaskError, match=r"data/b\.jsonl:1: no JSON"):
        dataset(tmp_path / "data")


@pytest.mark.parametrize(
    ("answer", "response", "reward"),
    [
        ("42", "42", 1.0),
        (" 42\n", "\t42 ", 1.0),
        (42, "42", 1.0),
        (42.0, "42", 1.0),
        ("42", "42.0", 0.0),
        ("42", "", 0.0),
        ("Yes", "yes", 0.0),
        (["Paris", "paris"], "paris", 1.0),
        (["Paris", "paris"], "PARIS", 0.0),
    ],
)
def test_a_response_is_right_when_it_is_the_answer(write_lines: WriteLines, answer: Any, response: str, reward: float):
    task = dataset(write_lines([{"prompt": "q", "answer": answer}]))
    prompt = task.prompt(0)
    # In a process that has not read the data, too.
    judge = make_task("dataset", 0, {"path": "/nowhere.jsonl"})
    assert task.reward(prompt, response) == judge.reward(prompt, response) == reward
    assert task.reward(prompt, str(task.solution(prompt))) == 1.0


def test_finished_reasoning_is_no_part_of_the_answer_and_unfinished_one_earns_nothing(write_lines: WriteLines):
    task = dataset(write_lines([{"prompt": "q", "answer": 42}]))
    said = ["<think>6*7</think>\n42", "6*7</think>42", "42", "<think>42"]
    assert [task.judge(task.prompt(0), JudgedResponse(text)) for text in said] == [1.0, 1.0, 1.0, 0.0]
    assert task.judge(task.prompt(0), JudgedResponse("42", thinking=True)) == 0.0


def test_a_row_without_an_answer_is_not_judged(write_lines: WriteLines):
    task = dataset(write_lines([{"prompt": "q"}, {"prompt": "r", "answer": {"a": 1}}]), shuffle=False)
    for index, what in ((0, "no answer"), (1, "an answer that is an object")):
        with pytest.raises(
            TaskError, match=f"the row has {what}, .* set task.options.columns.answer .* or task.reward"
        ):
            task.reward(task.prompt(index), "42")
        assert task.solution(task.prompt(index)) is None


def test_an_answer_is_what_the_last_match_captures(write_lines: WriteLines):
    path = write_lines([{"prompt": "q", "answer": "#### no\n#### 1,100 \n"}, {"prompt": "r", "answer": "none"}])
    options = {"answer_pattern": r"####\s*(\S+)", "columns": {"solution": "answer"}}
    task = dataset(path, bad_lines=0.5, **options)
    assert task.prompt(0).data["answer"] == "1,100"
    assert task.solution(task.prompt(0)) == "#### no\n#### 1,100 \n"
    with pytest.raises(TaskError, match=r"rows\.jsonl:2: .* or answer_pattern = .* does not match"):
        dataset(path, **options)


def test_a_reward_sees_the_columns_that_are_kept(write_lines: WriteLines):
    path = write_lines([{"x": {"q": "q", "n": 1}, "answer": 1, "level": 2, "source": "s"}])
    columns = {"prompt": "x.q"}
    assert dataset(path, columns=columns).prompt(0).data["row"] == {"answer": 1, "level": 2, "source": "s"}
    assert dataset(path, columns=columns, keep=["level"]).prompt(0).data["row"] == {"level": 2}


def test_a_file_that_changes_is_noticed_and_not_read(write_lines: WriteLines):
    path = write_lines([{"prompt": "a"}, {"prompt": "b"}])
    task = dataset(path)
    write_lines([{"prompt": "other"}, {"prompt": "b"}])
    with pytest.raises(TaskError, match=r"rows\.jsonl has changed since it was read: start the worker again"):
        task.prompt(0)
    path.unlink()
    with pytest.raises(TaskError, match=r"rows\.jsonl cannot be read any more: No such file"):
        task.prompt(0)


def test_a_cursor_goes_on_after_files_were_moved_and_refuses_other_rows(write_lines: WriteLines, tmp_path: Path):
    def source(path: Path) -> PromptSource:
        options = {"path": str(path)}
        task = load_task("dataset", 0, options)
        found = fingerprint(TaskConfig(name="dataset", options=options), 0, task.size, task.fingerprint())
        return PromptSource(tmp_path / "cursor", PromptOrder("w-0", task.size), found)

    rows = [{"prompt": f"{n}?", "answer": n} for n in range(10)]
    write_lines(rows[:5], "one/a.jsonl")
    write_lines(rows[5:], "one/b.jsonl")
    first = source(tmp_path / "one")
    first.done(first.take(4))
    write_lines(rows, "two/all.jsonl")  # the same rows in one file
    assert source(tmp_path / "two").take(1) == [4]
    for changed in ([{**rows[0], "answer": 5}, *rows[1:]], [*rows[1:], rows[0]], [*rows, {"prompt": "new?"}]):
        write_lines(changed, "two/all.jsonl")
        with pytest.raises(CursorError, match=r"the content of task\.options\.path is 'blake2b:"):
            source(tmp_path / "two")


def test_agents_are_asked_from_a_data_set_too(write_lines: WriteLines):
    path = write_lines([{"prompt": "q", "answer": 4}])
    spec = TaskSpec("agent", options={"path": str(path)}, prompts="dataset", command=("agent",))
    task = load(spec)
    assert task.size == 1
    assert json.loads(json.dumps(task.prompt(0).data)) == {"answer": 4, "row": {"answer": 4}}
    assert task.solution(task.prompt(0)) == "4"
    assert task.fingerprint().keys() == {"path"}


@pytest.mark.skipif(not GSM8K.is_dir(), reason="needs the data set GSM8K beside the repository")
def test_the_published_gsm8k_reads_whole():
    options = {"columns": {"prompt": "question"}, "answer_pattern": r"####\s*(.+)", "bad_lines": 0}
    task = dataset(GSM8K / "test.jsonl", **options)
    known = load_task("gsm8k", 0, {"path": str(GSM8K / "test.jsonl"), "instruction": ""})
    finals = {known.prompt(index).text: known.prompt(index).data["final"] for index in range(1319)}
    found = {prompt.text: prompt.data["answer"].replace(",", "") for prompt in prompts(task)}
    assert found == finals
    assert len(finals) == 1319
