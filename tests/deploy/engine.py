"""`python -m tests.deploy.engine PORT`: stands in for SGLang where a test has no time for two of them.

It has the part of the API that a worker uses, and answers the sort task right and wrong in equal parts. It ignores weights.
"""

from __future__ import annotations

import asyncio
import random
import sys

from runtime.children import die_with_parent
from tests.tools.fleet_peers import ScriptedEngine

_EOS = 12


def answer(prompt: list[int]) -> list[int]:
    """Answers [<bos>, six digits, =] with the digits in order, or as they are."""
    digits = prompt[1:-1]
    return [*(sorted(digits) if random.random() < 0.5 else digits), _EOS]


async def serve(port: int) -> None:
    """Serves until the process is killed."""
    engine = ScriptedEngine()
    engine.port, engine.answer = port, answer
    await engine.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(serve(int(sys.argv[1])))
