"""Draws the tasks of a mixture by weight, in an order that keeps their shares over any stretch, also across restarts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rollout.data.prompt_cursor import CursorError, UnreadableCursorError


class TaskShares:
    """Draws tasks: the one that is furthest behind its share is next.

    Each draw gives every task its share of one prompt as credit, and takes a whole prompt from the task that is drawn: the
    one with the most credit, of equal ones the first. So of any n draws in a row, a task has n times its share, give or take
    less than the number of tasks. Prompts that are drawn and not done when the worker ends are drawn again: the file has the
    credit after those that are done. A task that is added is not caught up.

    Args:
        path: the file; a mixture of one task has none. None: nothing is kept.
        weights: of every task, by label, in the order of the settings.

    Raises:
        CursorError: the file is damaged.
    """

    def __init__(self, path: Path | None, weights: Mapping[str, float]) -> None:
        self._path = path
        self._labels = list(weights)
        total = math.fsum(weights.values())
        self._shares = [weight / total for weight in weights.values()]
        known = _read(path) if path is not None and len(weights) > 1 else {}
        kept = [known[label] for label in self._labels if label in known]
        # Tasks that went away took what they had with them, and one that is new has what the others have.
        usual = math.fsum(kept) / len(kept) if kept else 0.0
        self._drawn = [known.get(label, usual) - usual for label in self._labels]
        self._done = list(self._drawn)

    def draw(self) -> int:
        """Returns the number of the task whose prompt is asked next."""
        credit = [one + share for one, share in zip(self._drawn, self._shares, strict=True)]
        # Rounded: sums of shares such as 0.1 would otherwise decide between tasks that are equally far behind.
        task = max(range(len(credit)), key=lambda one: (round(credit[one], 9), -one))
        credit[task] -= 1.0
        self._drawn = credit
        return task

    def done(self, tasks: Sequence[int]) -> None:
        """Notes that prompts of these tasks are done, and writes the file."""
        if self._path is None or len(self._labels) == 1 or not tasks:
            return
        for number, share in enumerate(self._shares):
            self._done[number] += share * len(tasks) - tasks.count(number)
        temporary = self._path.with_suffix(".tmp")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"credit": dict(zip(self._labels, self._done, strict=True))}))
        os.replace(temporary, self._path)


def _read(path: Path) -> dict[str, float]:
    try:
        credit = {str(label): float(value) for label, value in json.loads(path.read_text())["credit"].items()}
        if all(map(math.isfinite, credit.values())):
            return credit
        problem = "a credit is not finite"
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UnreadableCursorError(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error)
    raise CursorError(f"{path}: damaged shares of tasks ({problem}); delete it: the shares then begin anew")
