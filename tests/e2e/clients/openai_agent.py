"""An agent on the openai-agents SDK, run by its own virtualenv: asks, calls the tool, answers; prints what it saw as JSON."""
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import sys

from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled


@function_tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


async def main(stream: bool) -> None:
    set_default_openai_api("chat_completions")
    set_tracing_disabled(True)
    agent = Agent(name="adder", instructions="Be brief.", tools=[add], model="any")
    if stream:
        result = Runner.run_streamed(agent, "What is 1 + 1?")
        async for _ in result.stream_events():
            pass
    else:
        result = await Runner.run(agent, "What is 1 + 1?")
    print(json.dumps({"final": result.final_output, "items": [item.to_input_item() for item in result.new_items]}))


asyncio.run(main("--stream" in sys.argv))
