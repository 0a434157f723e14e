"""A reward worker process, `python -m rollout.tasks.reward_worker`: scores responses away from the worker's event loop.

It speaks JSON lines. First in: {"name", "seed", "options"} of the task. Then {"prompt", "response"} in and {"reward",
"parts"} or {"error"} out, once per response. The prompt travels pickled, in base64: this process does not load the task's
data, which may have changed since the worker read it; and pickle, unlike JSON, gives ``Prompt.data`` back as it was, tuples
and sets included. Only the worker, which started this process, writes to its stdin; what comes back is JSON.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
from typing import Any

from rollout.tasks import Task, make_task
from rollout.tasks.reward_error import describe
from rollout.tasks.score import as_score


def main() -> None:
    """Answers requests from stdin until it ends."""
    # stdout carries the answers; what a task prints must not mix with them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = make_task(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        answers.write(json.dumps(_answer(task, json.loads(line))) + "\n")
        answers.flush()


def _answer(task: Task, request: dict[str, Any]) -> dict[str, Any]:
    try:
        prompt = pickle.loads(base64.b64decode(request["prompt"]))  # noqa: S301 - the worker's own objects, through a pipe
        # Converted here: a number of numpy is a reward, but not JSON.
        return vars(as_score(task.reward(prompt, request["response"])))
    except Exception as error:  # noqa: BLE001 - a process boundary: the worker logs it, counts it and goes on
        return {"error": describe(task, error)}


if __name__ == "__main__":
    main()
