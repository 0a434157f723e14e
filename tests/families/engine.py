"""The engine's part: real SGLang, started and refitted by the code of the rollout worker, generates greedily."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from leeway.v1 import rollout_pb2
from rollout.config import EngineConfig
from rollout.engine.errors import EngineError
from rollout.engine.prompt_limits import PromptLimits
from rollout.engine.sampling import Sampling
from rollout.engine.server_process import Server, ServerError
from rollout.engine.sglang import Engine
from rollout.versions.verifier import Verifier

NEW_TOKENS = 32
_START_S, _CALL_S = 300.0, 120.0
# The line that ends a traceback, or says of a port in use. The first one is the cause; others follow from it.
_CAUSE = re.compile(r"^(?:\[[^]]+\] ERROR: .*|[\w.]*(?:Error|Exception)\b.*)", re.MULTILINE)


class NotRunError(Exception):
    """The engine does not run a model: its own error, in one line."""


async def generate(
    model: Path, policies: Sequence[rollout_pb2.Policy], prompts: list[list[int]], vocabulary: int, port: int
) -> list[list[list[int]]]:
    """Starts a server, loads one version after the other into it, and generates with each.

    Args:
        model: directory that the server starts with, as a fleet's does.
        policies: announcements of the versions to load, in order.
        prompts: token ids.
        vocabulary: number of token ids.
        port: that the server listens on.

    Returns:
        For each version, the NEW_TOKENS greedy tokens of each prompt.

    Raises:
        NotRunError: the server did not start, or failed.
    """
    log = model.parent / "engine.log"
    config = EngineConfig(base_port=port, start_timeout_s=_START_S)
    verifier = Verifier(model, [model.parent.as_uri()])
    greedy = Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS, stop_ids=())
    found: list[list[list[int]]] = []
    server = Server(config, 0, model, log)
    try:
        async with aiohttp.ClientSession() as session:
            await server.wait_until_up(session)
            engine = Engine(server.url, session, PromptLimits(vocabulary), _CALL_S, _CALL_S)
            await engine.learn_limits()
            for policy in policies:
                version = verifier.verify(policy)
                await engine.weights.refit(version.number, version.path, config.refit)
                responses = await engine.generate(prompts, greedy)
                for response in responses:
                    versions = {span.version for span in response.spans}
                    if len(response.tokens) != NEW_TOKENS or versions != {policy.version}:
                        raise EngineError(f"an unexpected response: {response}")
                found.append([response.tokens for response in responses])
    except (ServerError, EngineError) as error:
        raise NotRunError(cause(log.read_text(errors="replace")) or str(error).splitlines()[0]) from error
    finally:
        server.kill()
    return found


def cause(log: str) -> str | None:
    """The first error in a server's log, in one line; one without a message with its line of source. None: it has none."""
    found = _CAUSE.search(log)
    if found is None:
        return None
    text = found.group().strip()
    source = [
        line.strip() for line in log[: found.start()].splitlines() if line.startswith("    ") and line.strip(" ^~")
    ]
    return f"{text}: {source[-1]}" if source and text.replace(".", "_").isidentifier() else text
