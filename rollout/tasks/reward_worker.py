"""A reward worker process, `python -m rollout.tasks.reward_worker`: scores responses away from the worker's event loop.

It speaks JSON lines. First in: {"name", "seed", "options"} of the task. Then {"index", "response"} in and {"reward", "parts"}
or {"error"} out, once per response. The prompt is a function of its index, so it need not travel.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rollout.tasks import Task, load_task
from rollout.tasks.reward_error import describe
from rollout.tasks.score import as_score


def main() -> None:
    """Answers requests from stdin until it ends."""
    # stdout carries the answers; what a task prints must not mix with them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = load_task(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        answers.write(json.dumps(_answer(task, json.loads(line))) + "\n")
        answers.flush()


def _answer(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    try:
        # Converted here: a number of numpy is a reward, but not JSON.
        return vars(as_score(task.reward(task.prompt(request["index"]), request["response"])))
    except Exception as error:  # noqa: BLE001 - a process boundary: the worker logs it, counts it and goes on
        return {"error": describe(task, error)}


if __name__ == "__main__":
    main()
