"""A resumable source of prompt indices: a file records which are done, so that acknowledged work is not repeated."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import structlog

from rollout.data.fingerprint import Fingerprint, differences
from rollout.data.prompt_order import PromptOrder
from runtime.errors import FAILED, MISCONFIGURED, LeewayError

_MOST_LOOKED_AT = 100_000

OnChange = Literal["refuse", "restart", "continue"]


class CursorError(LeewayError):
    """A file of a worker's place in its prompts that it cannot use. The message names the file and what to do."""

    exit_status = MISCONFIGURED


class UnreadableCursorError(CursorError):
    """A file of a worker's place that is there and that the disk does not give: it need not be damaged, and is kept.

    Args:
        path: the file.
        error: what the disk says.
    """

    exit_status = FAILED

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path}: cannot be read ({error}): see to the disk or its rights, and start again; do not delete it"
        )


class PromptSource:
    """Hands out a worker's prompt indices in their order, until each is done.

    The file contains the fingerprint of the prompts, a watermark (the first ``watermark`` positions of the worker's order are
    all done) and the positions done above it; it is replaced atomically each time indices are done. After a crash, indices
    that were handed out and not done are handed out again. The file survives a crash of the process; after a crash of the
    machine, some that were done may be handed out again.

    Args:
        path: the cursor file; created when missing.
        order: the worker's order.
        prompts: the fingerprint of what the indices stand for.
        on_change: what to do when the file was written for other prompts: refuse them, start them from their beginning, or
            continue at the same position.

    Raises:
        CursorError: the file is damaged, or was written for other prompts and they are refused.
    """

    def __init__(self, path: Path, order: PromptOrder, prompts: Fingerprint, on_change: OnChange = "refuse") -> None:
        self._path = path
        self._order = order
        self._prompts = prompts
        path.parent.mkdir(parents=True, exist_ok=True)
        self._watermark, self._above = self._load(on_change)
        self._next = self._watermark
        self._returned: list[int] = []

    def take(
        self, count: int, passed_over: Callable[[int], bool] | None = None, most: int = _MOST_LOOKED_AT
    ) -> list[int]:
        """Hands out the next indices: returned ones first, then new ones.

        Args:
            count: how many, where enough are found.
            passed_over: says of an index whether it is not asked now. It is done then; the next call of ``done`` writes that.
            most: how many indices are looked at.
        """
        taken: list[int] = []
        for _ in range(most):
            if len(taken) == count:
                break
            position = self._next_position()
            index = self._order.index(position)
            if passed_over is not None and passed_over(index):
                self._mark([position])
            else:
                taken.append(index)
        return taken

    def _next_position(self) -> int:
        if self._returned:
            return heapq.heappop(self._returned)
        # What was done before a crash lies above the watermark, until that passes it.
        self._next = max(self._next, self._watermark)
        while self._next in self._above:
            self._next += 1
        self._next += 1
        return self._next - 1

    def give_back(self, indices: Iterable[int]) -> None:
        """Takes back indices whose work failed; they are handed out again before new ones."""
        for index in indices:
            heapq.heappush(self._returned, self._order.position(index))

    def done(self, indices: Iterable[int]) -> None:
        """Marks indices as done for good, and writes the file."""
        self._mark(self._order.position(index) for index in indices)
        self._save(self._watermark, self._above)

    def _mark(self, positions: Iterable[int]) -> None:
        self._above.update(positions)
        while self._watermark in self._above:
            self._above.remove(self._watermark)
            self._watermark += 1

    def _load(self, on_change: OnChange) -> tuple[int, set[int]]:
        try:
            state: dict[str, Any] = json.loads(self._path.read_text())
            prompts, watermark, above = dict(state["prompts"]), int(state["watermark"]), set(map(int, state["done"]))
        except FileNotFoundError:
            return 0, set()
        except OSError as error:
            raise UnreadableCursorError(self._path, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CursorError(
                f"{self._path}: damaged prompt cursor ({error!r}); delete it to start from the first prompt"
            ) from error
        changed = differences(prompts, self._prompts)
        if not changed:
            return watermark, above
        if on_change == "refuse":
            raise CursorError(
                f"{self._path}: this worker stopped after {watermark + len(above)} of other prompts than are configured now: "
                f"{'; '.join(changed)}. It would pass over as many of the new ones. Restore them (a file to which rows were "
                "added is another file), or choose: task.on_change = 'restart' asks the new prompts from their beginning, "
                "'continue' goes on at the same position (in a run file: rollout.task.on_change)"
            )
        if on_change == "restart":
            watermark, above = 0, set()
        structlog.get_logger().warning("prompts changed", on_change=on_change, changed=changed, position=watermark)
        self._save(
            watermark, above
        )  # asked and answered: the next start, with or without the setting, goes on from here
        return watermark, above

    def _save(self, watermark: int, above: set[int]) -> None:
        state = {"prompts": self._prompts, "watermark": watermark, "done": sorted(above)}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, self._path)
