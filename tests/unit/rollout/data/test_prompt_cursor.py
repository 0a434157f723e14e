"""The prompt cursor: nothing acknowledged is handed out again, everything else is, whatever the order and the crashes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.data.prompt_cursor import CursorError, PromptSource

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "done", "give_back", "crash"]), st.integers(0, 5)), min_size=1, max_size=60
)


@given(ACTIONS, st.integers(1, 3).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count))))
def test_done_is_never_handed_out_again_and_nothing_is_skipped(actions: list[tuple[str, int]], shard: tuple[int, int]):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cursor.json"
        source = PromptSource(path, shard)
        out: list[int] = []
        done: set[int] = set()
        for action, number in actions:
            if action == "take":
                taken = source.take(number)
                assert not set(taken) & (done | set(out))
                assert len(set(taken)) == number
                out += taken
            elif action == "crash":
                source, out = PromptSource(path, shard), []
            elif out:
                index = out.pop(number % len(out))
                if action == "done":
                    source.done([index])
                    done.add(index)
                else:
                    source.give_back([index])
        # After a last crash the source continues with exactly the lowest indices of the shard that are not done.
        expected = [index for index in range(shard[0], 10_000, shard[1]) if index not in done][:20]
        assert PromptSource(path, shard).take(20) == expected


def test_shards_share_all_indices_without_overlap(tmp_path: Path):
    taken = [PromptSource(tmp_path / f"{shard}.json", (shard, 3)).take(10) for shard in range(3)]
    assert sorted(index for shard in taken for index in shard) == list(range(30))


def test_an_index_of_another_shard_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="index = 1: not of shard"):
        PromptSource(tmp_path / "c.json", (0, 2)).done([1])


def test_another_shard_and_a_damaged_file_are_named(tmp_path: Path):
    path = tmp_path / "worker-0.cursor.json"
    PromptSource(path, (0, 1)).done([0])
    with pytest.raises(
        CursorError, match=r"worker-0\.cursor\.json: written for shard = \(0, 1\), configured is \(0, 2\)"
    ):
        PromptSource(path, (0, 2))
    path.write_text("{")
    with pytest.raises(CursorError, match="damaged prompt cursor"):
        PromptSource(path, (0, 1))
