"""The prompt cursor: nothing acknowledged is handed out again, everything else is, whatever the order and the crashes."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout.config import RestConfig, TaskConfig
from rollout.data.fingerprint import fingerprint
from rollout.data.prompt_cursor import CursorError, OnChange, PromptSource
from rollout.data.prompt_memory import PromptMemory
from rollout.data.prompt_order import PromptOrder
from rollout.data.task_shares import TaskShares
from rollout.tasks import load_task

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "done", "give_back", "crash"]), st.integers(0, 5)), min_size=1, max_size=60
)
PROMPTS = {"task.name": "sort", "seed": 0}


@settings(deadline=None)  # the machine may be busy
@given(ACTIONS, st.sampled_from(["worker-0", "worker-3", "tokyo"]), st.sampled_from([None, 1, 7, 1000]))
@example([("take", 2), ("done", 1), ("crash", 0), ("take", 1), ("done", 0), ("take", 1)], "worker-0", None)
def test_done_is_never_handed_out_again_and_nothing_is_skipped(
    actions: list[tuple[str, int]], name: str, size: int | None
):
    order = PromptOrder(name, size)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cursor.json"
        source = PromptSource(path, order, PROMPTS)
        out: list[int] = []
        done: set[int] = set()
        for action, number in actions:
            if action == "take":
                taken = source.take(number)
                assert not set(taken) & (done | set(out))
                assert len(set(taken)) == number
                out += taken
            elif action == "crash":
                source, out = PromptSource(path, order, PROMPTS), []
            elif out:
                index = out.pop(number % len(out))
                if action == "done":
                    source.done([index])
                    done.add(index)
                else:
                    source.give_back([index])
        # After a last crash the source continues with exactly the first indices of the order that are not done.
        expected = [index for index in map(order.index, range(1000)) if index not in done][:20]
        assert PromptSource(path, order, PROMPTS).take(20) == expected


def test_workers_that_come_and_go_leave_no_prompt_out_and_find_their_place_again(tmp_path: Path):
    """Two workers become four, then one; whichever are there, none needs to know of it."""

    def work(name: str, count: int) -> list[int]:
        source = PromptSource(tmp_path / f"{name}.json", PromptOrder(name, 80), PROMPTS)
        indices = source.take(count)
        source.done(indices)
        return indices

    first = [index for name in ("w-0", "w-1") for index in work(name, 10)]
    second = [index for name in ("w-0", "w-1", "w-2", "w-3") for index in work(name, 10)]
    assert sorted(first + second) == [*range(20), *range(20, 30), *range(40, 60), *range(60, 70)]
    alone = work("w-0", 60)
    assert set(first) | set(second) | set(alone) == set(range(80))
    assert work("w-3", 3) == [70, 71, 72]


def stopped(directory: Path, options: dict[str, str], on_change: OnChange = "refuse", seed: int = 0) -> PromptSource:
    """A worker's source of prompts at a start, of the task gsm8k with these options."""
    task = load_task("gsm8k", seed, options)
    prompts = fingerprint(TaskConfig(name="gsm8k", options=options), seed, task.size, {})
    return PromptSource(directory / "worker-0.cursor.json", PromptOrder("worker-0", task.size), prompts, on_change)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f'{{"question": "{one}?", "answer": "#### {one}"}}\n' for one in range(50)))
    return path


def test_a_file_that_changed_is_refused_with_its_name_both_digests_and_the_way_on(tmp_path: Path, data: Path):
    source = stopped(tmp_path, {"path": str(data)})
    source.done(source.take(20))
    with data.open("a") as file:
        file.write('{"question": "new?", "answer": "#### 7"}\n')
    with pytest.raises(CursorError) as error:
        stopped(tmp_path, {"path": str(data)})
    text = str(error.value)
    assert text.startswith(f"{tmp_path}/worker-0.cursor.json: this worker stopped after 20 of other prompts")
    assert f"task.options.path is {str(data)!r} with content blake3:" in text
    assert text.count("with content blake3:") == 2
    assert "prompts in a pass is 51, was 50" in text
    assert "task.on_change = 'restart' asks the new prompts from their beginning" in text
    assert stopped(tmp_path, {"path": str(data)}, "restart").take(3) == [0, 1, 2]
    # Said once, it is not asked again.
    assert stopped(tmp_path, {"path": str(data)}).take(1) == [0]


def test_another_seed_and_another_option_are_refused_and_another_place_of_the_file_is_not(tmp_path: Path, data: Path):
    source = stopped(tmp_path, {"path": str(data)})
    source.done(source.take(20))
    with pytest.raises(CursorError, match="seed is 1, was 0"):
        stopped(tmp_path, {"path": str(data)}, seed=1)
    with pytest.raises(CursorError, match="instruction is ' Go', was not set"):
        stopped(tmp_path, {"path": str(data), "instruction": " Go"})
    assert stopped(tmp_path, {"path": str(data), "instruction": " Go"}, "continue").take(1) == [20]
    data.rename(tmp_path / "moved.jsonl")
    assert stopped(tmp_path, {"path": str(tmp_path / "moved.jsonl"), "instruction": " Go"}).take(1) == [20]
    with pytest.raises(CursorError, match="instruction is not set, was ' Go'"):
        stopped(tmp_path, {"path": str(tmp_path / "moved.jsonl")})


@pytest.mark.parametrize("content", ["{", "[]", '{"watermark": 3}', json.dumps({"prompts": PROMPTS, "watermark": "x"})])
def test_a_damaged_file_is_named(tmp_path: Path, content: str):
    path = tmp_path / "worker-0.cursor.json"
    path.write_text(content)
    with pytest.raises(CursorError, match=r"worker-0\.cursor\.json: damaged prompt cursor .* delete it to start"):
        PromptSource(path, PromptOrder("worker-0", None), PROMPTS)


def test_a_file_that_the_disk_does_not_give_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody is told to delete it, and another start may help."""
    order = PromptOrder("worker-0", 2)
    PromptSource(tmp_path / "cursor.json", order, PROMPTS).done([0])
    TaskShares(tmp_path / "shares.json", {"a": 1.0, "b": 1.0}).done([0])
    memory = PromptMemory(tmp_path / "memory.jsonl", 2, RestConfig(after=2), PROMPTS)
    memory.note(0, [0.0, 1.0])
    memory.save()

    def stale(path: Path, *_: object, **__: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    for name in ("read_text", "read_bytes"):
        monkeypatch.setattr(Path, name, stale)
    openings: list[Callable[[], object]] = [
        lambda: PromptSource(tmp_path / "cursor.json", order, PROMPTS),
        lambda: TaskShares(tmp_path / "shares.json", {"a": 1.0, "b": 1.0}),
        lambda: PromptMemory(tmp_path / "memory.jsonl", 2, RestConfig(after=2), PROMPTS),
    ]
    for opening in openings:
        with pytest.raises(CursorError, match=r"cannot be read .*Stale file handle.*do not delete it") as refused:
            opening()
        assert refused.value.exit_status == 1


def test_a_disk_that_does_not_even_say_whether_there_is_a_file_is_no_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def opened(root: Path) -> list[Callable[[], object]]:
        return [
            lambda: PromptSource(root / "cursor.json", PromptOrder("worker-0", 2), PROMPTS),
            lambda: TaskShares(root / "shares.json", {"a": 1.0, "b": 1.0}),
            lambda: PromptMemory(root / "memory.jsonl", 2, RestConfig(after=2), PROMPTS),
        ]

    for opening in opened(tmp_path):
        opening()  # the first start, on a sound disk

    def failing(path: Path, *_: object, **__: object) -> Any:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    for name in ("stat", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, name, failing)
    for opening in opened(tmp_path):
        with pytest.raises(CursorError, match=r"cannot be read .*Input/output error"):
            opening()


def test_indices_that_are_passed_over_are_done_with_the_next_that_is_written(tmp_path: Path):
    path, order = tmp_path / "cursor.json", PromptOrder("worker-0", None)
    source = PromptSource(path, order, PROMPTS)
    source.give_back(source.take(2))
    taken = source.take(3, lambda index: index % 2 == 1)
    assert taken == [0, 2, 4]
    assert PromptSource(path, order, PROMPTS).take(1) == [0]  # not written yet
    source.done([0, 2])
    again = PromptSource(path, order, PROMPTS)
    assert again.take(3) == [4, 5, 6]  # 1 and 3 are done; nobody has looked at 5


def test_a_search_ends_after_as_many_indices_as_it_may_look_at(tmp_path: Path):
    source = PromptSource(tmp_path / "cursor.json", PromptOrder("worker-0", 10), PROMPTS)
    assert source.take(2, lambda index: index != 3, 5) == [3]
    assert source.take(1, lambda _: True, 20) == []
    assert source.take(1) == [25]
