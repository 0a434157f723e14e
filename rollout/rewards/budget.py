"""What calls of a judge may cost: counted in a file, over restarts and over the processes of one worker."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from rollout.tasks.reward_error import RewardError


class CallBudget:
    """A budget of calls and tokens; None is no limit.

    Args:
        calls: most calls.
        tokens: most tokens, read and generated, as the judge counts them. The calls under way when it is reached are made.
        path: where the count is kept; None: in this object alone.
    """

    def __init__(self, calls: int | None, tokens: int | None, path: Path | None) -> None:
        self._calls = calls
        self._tokens = tokens
        self._path = path
        self._used = {"calls": 0, "tokens": 0}

    def take(self) -> None:
        """Counts a call that is about to be made.

        Raises:
            RewardError: judge_budget: it is used up.
        """
        if self._calls is None and self._tokens is None:
            return
        self._change(1, 0)

    def spend(self, tokens: int) -> None:
        """Counts the tokens of a call that was made."""
        if self._tokens is not None:
            self._change(0, tokens)

    def _change(self, calls: int, tokens: int) -> None:
        if self._path is None:
            self._used = self._changed(self._used, calls, tokens)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held for as long as a line is written
            file.seek(0)
            text = file.read()
            used = self._changed({**self._used, **(json.loads(text) if text else {})}, calls, tokens)
            file.seek(0)
            file.truncate()
            file.write(json.dumps(used) + "\n")

    def _changed(self, used: dict[str, int], calls: int, tokens: int) -> dict[str, int]:
        """Returns the count with what is added. Raises RewardError for a call for which nothing is left."""
        for name, most in (("calls", self._calls), ("tokens", self._tokens)):
            if calls and most is not None and used[name] >= most:
                where = "" if self._path is None else f", counted in {self._path}"
                raise RewardError(
                    "judge_budget", f"{used[name]} {name} of the judge are used{where}; options.most_{name} = {most}"
                )
        return {"calls": used["calls"] + calls, "tokens": used["tokens"] + tokens}
