"""`python -m tests.bench.consumer JSON`: a learner that takes, decodes and commits, and does nothing else.

It ends when its standard input does, and then says how many groups it took.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from learner.batch.sequences import token_ids
from learner.config import QueueConfig
from learner.queue import LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from tests.bench.window import own_cpu_s

_STEP = 16
_POLL_S = 0.004  # as the learner's intake does


def decode(group: pb.Group) -> int:
    """Decodes all token ids of a group as packing needs them; returns their bytes on the wire."""
    buffers = [group.prompt_tokens, *(response.tokens for response in group.responses)]
    for buffer in buffers:
        token_ids(buffer)
    return sum(map(len, buffers))


def consume(queue: LearnerQueue, ended: threading.Event) -> dict[str, Any]:
    """Takes and commits groups until ``ended`` is set and none waits."""
    groups = step = size = 0
    taking = taking_cpu = 0.0
    while True:
        started, cpu = time.monotonic(), own_cpu_s()
        taken = queue.take(_STEP, 0, 4)
        size += sum(decode(one.group) for one in taken)
        if len(taken) == _STEP:
            taking += time.monotonic() - started
            taking_cpu += own_cpu_s() - cpu
            groups += len(taken)
        if taken:
            step += 1
            queue.commit(step, [one.ref for one in taken])
        elif ended.is_set():
            return {"full_takes": groups, "take_s": taking, "take_cpu_s": taking_cpu, "bytes": size}
        else:
            time.sleep(_POLL_S)


def main(settings: dict[str, Any]) -> None:
    queue = LearnerQueue.open(QueueConfig(**settings))
    queue.begin(0, [])
    if queue.next_version() == 0:
        queue.publish(pb.Policy(version=0, step=0, epoch=queue.epoch, uri="file:///w/0"))
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    print(json.dumps(consume(queue, ended)), flush=True)
    queue.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
