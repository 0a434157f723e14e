"""`python -m tests.bench.xadd JSON`: bare Redis, the ceiling of the append: XADD of the standard message, 32 a pipeline."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import redis

from tests.bench.sample import sample_group
from tests.bench.window import Driver

_PIPELINE = 32


def main(settings: dict[str, Any]) -> None:
    driver, payload = Driver(), sample_group().SerializeToString()
    client = redis.Redis.from_url(settings["url"], protocol=2)

    def write(seconds: float) -> int:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            with client.pipeline(transaction=False) as pipeline:
                for _ in range(_PIPELINE):
                    pipeline.xadd("bench", {"group": payload})
                pipeline.execute()
            count += _PIPELINE
            if count % (16 * _PIPELINE) == 0:
                client.delete("bench")
        return count

    write(0.5)
    driver.go()
    driver.done(write(settings["seconds"]))
    client.delete("bench")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
