"""What a worker remembers of the prompts of finite data: how their groups went, and which rest because they teach nothing."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog

from rollout.config import RestConfig
from rollout.data.fingerprint import Fingerprint, differences
from rollout.data.prompt_cursor import CursorError, UnreadableCursorError

Resting = Literal["solved", "hopeless"]
RESTING: tuple[Resting, ...] = ("solved", "hopeless")

_NEWEST = 0.3  # of the newest group, in a prompt's pass rate
_DOUBLINGS = 6  # a prompt rests 64 times rest.passes at most
_MOST_FLAT = 255
_LINES = 4096  # of the file beyond twice the prompts that it knows, before it is written anew
_ROWS = 2000  # of the data, that are written anew at a time
_SAME = 1e-6  # rewards that differ by less, relative to the larger one, are no contrast: sums of parts are rounded


def has_contrast(rewards: Sequence[float]) -> bool:
    """Whether rewards of one group differ, so that responses can be compared."""
    low, high = min(rewards), max(rewards)
    return high - low > _SAME * max(1.0, abs(low), abs(high))


class PromptMemory:
    """Remembers every prompt that was asked, by its row in the data.

    A prompt whose last ``rest.after`` groups in a row had no contrast rests for ``rest.passes`` passes over the data. Then it
    is asked again: without contrast again it rests twice as long, up to 64 times; with contrast it is as any other.

    It takes 18 bytes of memory for each row of the data. The file is a line for each group, of which the last one of a row
    counts, and is written anew when half of its lines are out of date; so a group costs the same however large the data are.
    Prompts that never end are never asked again: they have no memory.

    Args:
        path: the file; created when the first group is noted.
        size: number of rows.
        rest: when and for how long prompts rest.
        prompts: the fingerprint of what the rows stand for. What was remembered of other ones is forgotten.

    Raises:
        CursorError: the file is damaged.
    """

    def __init__(self, path: Path, size: int, rest: RestConfig, prompts: Fingerprint) -> None:
        self._path = path
        self._size = size
        self._rest = rest
        self._prompts = prompts
        self._groups = array("I", bytes(4 * size))  # number of groups
        self._rate = array("f", bytes(4 * size))  # moving average of their mean rewards
        self._last = array("f", bytes(4 * size))  # mean reward of the last one
        self._flat = array("B", bytes(size))  # groups in a row without contrast
        self._rests = array("B", bytes(size))  # rests in a row
        self._until = array("I", bytes(4 * size))  # pass in which the row is asked again
        self._ahead = 0  # passes that were skipped because every prompt rested
        self._seen = 0  # pass in which it was asked for a prompt last
        self._range: tuple[float, float] | None = None  # of the mean rewards
        self._resting: dict[int, Resting] = {}
        self._counts: dict[Resting, int] = dict.fromkeys(RESTING, 0)
        self._known = self._lines = 0
        self._changed: list[str] = []
        self._copying: Iterator[None] | None = None
        self._since: list[str] = []  # lines of the file that are newer than its copy
        self._load()

    def rests(self, index: int) -> Resting | None:
        """Returns why a prompt is not asked now; None where it is asked."""
        now, row = self._place(index)
        self._seen = now
        return self._resting[row] if row in self._resting and now < self._until[row] else None

    def note(self, index: int, rewards: Sequence[float]) -> None:
        """Notes the rewards of a group; one with fewer than two says nothing."""
        if len(rewards) < 2:
            return
        now, row = self._place(index)
        mean = sum(rewards) / len(rewards)
        if self._range is None or not self._range[0] <= mean <= self._range[1]:
            low, high = self._range or (mean, mean)
            self._range = min(low, mean), max(high, mean)
            self._note(range=self._range)
            self._rest_all(list(self._resting))  # the best reward may have been another one
        first = not self._groups[row]
        self._known += first
        self._groups[row] += 1
        self._rate[row] = mean if first else (1 - _NEWEST) * self._rate[row] + _NEWEST * mean
        self._last[row] = mean
        if (kind := self._resting.pop(row, None)) is not None:
            self._counts[kind] -= 1
        if has_contrast(rewards):
            self._flat[row] = self._rests[row] = self._until[row] = 0
        else:
            self._flat[row] = min(_MOST_FLAT, self._flat[row] + 1)
            if self._flat[row] >= min(self._rest.after, _MOST_FLAT):
                self._until[row] = now + 1 + (self._rest.passes << min(self._rests[row], _DOUBLINGS))
                self._rests[row] = min(_MOST_FLAT, self._rests[row] + 1)
                self._resting[row] = self._kind(row)
                self._counts[self._resting[row]] += 1
        self._changed.append(self._row(row))

    def pass_rate(self, index: int) -> float | None:
        """Returns a prompt's moving average of the mean reward, from 0, the lowest mean reward seen, to 1, the highest.

        None where the prompt was not asked yet, or no two prompts have differed.
        """
        row = index % self._size
        if not self._groups[row] or self._range is None or self._range[0] == self._range[1]:
            return None
        low, high = self._range
        return min(1.0, max(0.0, (self._rate[row] - low) / (high - low)))

    def resting(self) -> dict[Resting, int]:
        """Returns how many prompts rest, or have rested and were not asked again yet, by why."""
        return dict(self._counts)

    def skip(self) -> None:
        """Lets as many passes go by as it takes until a prompt is asked again, where every prompt rests."""
        now = self._seen
        soonest = min((self._until[row] for row in self._resting), default=now)
        self._ahead += max(0, soonest - now)
        self._note(ahead=self._ahead)

    def save(self) -> None:
        """Writes what has changed since the last time. What is not written when the process dies is forgotten."""
        if not self._changed:
            return
        if self._lines == 0:
            self._write_head()
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(self._changed)
        self._lines += len(self._changed)
        if self._copying is not None:
            self._since += self._changed
        elif self._lines > 2 * self._known + _LINES:
            self._copying = self._copy()
        self._changed.clear()
        if self._copying is not None:
            next(self._copying, None)

    def _place(self, index: int) -> tuple[int, int]:
        passes, row = divmod(index, self._size)
        return passes + self._ahead, row

    def _rest_all(self, rows: Iterable[int]) -> None:
        self._resting = {row: self._kind(row) for row in rows}
        kinds = list(self._resting.values())
        self._counts = {kind: kinds.count(kind) for kind in RESTING}

    def _kind(self, row: int) -> Resting:
        """Why a row rests: its rewards are the best that were seen, or worse."""
        low, high = self._range or (0.0, 0.0)
        if low == high:
            return "solved" if high > 0 else "hopeless"
        return "solved" if self._last[row] >= high - 0.01 * (high - low) else "hopeless"

    def _row(self, row: int) -> str:
        """The line of a row."""
        rewards = f"{self._rate[row]:.6g},{self._last[row]:.6g}"
        return f"[{row},{self._groups[row]},{rewards},{self._flat[row]},{self._rests[row]},{self._until[row]}]\n"

    def _note(self, **values: Any) -> None:
        self._changed.append(json.dumps(values, separators=(",", ":")) + "\n")

    def _head(self) -> str:
        return json.dumps({"prompts": self._prompts, "ahead": self._ahead, "range": self._range}) + "\n"

    def _write_head(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(self._head(), encoding="utf-8")
        os.replace(temporary, self._path)
        self._lines = 1

    def _copy(self) -> Iterator[None]:
        """Writes the file anew, a part with each step, so that no step takes long; the file is replaced at the end."""
        self._since, written = [], 1
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(self._head())
            for start in range(0, self._size, _ROWS):
                if start:
                    yield
                rows = [row for row in range(start, min(start + _ROWS, self._size)) if self._groups[row]]
                file.writelines(map(self._row, rows))
                written += len(rows)
            file.writelines(self._since)  # what has changed meanwhile: the last line of a row counts
        os.replace(temporary, self._path)
        self._lines = written + len(self._since)
        self._copying = None

    def _load(self) -> None:
        number = 0
        try:
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return
            # A line without an end was being written when the machine stopped; it is written again, or was of no use.
            whole = data[: data.rfind(b"\n") + 1]
            lines = whole.decode().splitlines()
            changed = differences(dict(json.loads(lines[0])["prompts"]), self._prompts)
            if changed:
                structlog.get_logger().warning("prompts changed: their memory is forgotten", changed=changed)
                self._path.unlink()
                return
            for number, line in enumerate(lines):  # noqa: B007 - named in the message
                self._read(json.loads(line))
            if len(whole) < len(data):
                os.truncate(self._path, len(whole))
        except OSError as error:
            raise UnreadableCursorError(self._path, error) from error
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise CursorError(
                f"{self._path}: line {number + 1}: damaged memory of prompts ({error!r}); delete it: every prompt is then "
                "asked again"
            ) from error
        self._lines = len(lines)
        self._known = sum(1 for groups in self._groups if groups)
        self._rest_all(row for row, rests in enumerate(self._rests) if rests)

    def _read(self, line: Any) -> None:
        if isinstance(line, dict):
            self._ahead = int(line.get("ahead", self._ahead))
            found = line.get("range", self._range)
            self._range = None if found is None else (float(found[0]), float(found[1]))
            return
        row, groups, rate, last, flat, rests, until = line
        if not 0 <= row < self._size:
            raise ValueError(f"row {row} of {self._size}")
        self._groups[row], self._rate[row], self._last[row] = groups, rate, last
        self._flat[row], self._rests[row], self._until[row] = flat, rests, until
