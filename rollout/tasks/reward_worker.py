"""A reward worker process, `python -m rollout.tasks.reward_worker`: scores responses away from the worker's event loop.

It speaks JSON lines. First in: {"name", "seed", "options"} of the task. Then {"index", "response"} in and {"reward"} or
{"error"} out, once per response. The prompt is a function of its index, so it need not travel.
"""

from __future__ import annotations

import json
import os
import sys

from rollout.tasks import load_task


def main() -> None:
    """Answers requests from stdin until it ends."""
    # stdout carries the answers; what a task prints must not mix with them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = load_task(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"reward": task.reward(task.prompt(request["index"]), request["response"])}
        except Exception as error:  # noqa: BLE001 - a process boundary: the worker logs it and stops
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
