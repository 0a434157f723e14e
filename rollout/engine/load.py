"""How much an SGLang server has to do, as it says itself at /v1/loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollout.engine.calls import ServerCalls
from rollout.engine.errors import EngineError

_LIMIT_S = 10.0
_PATH = "/v1/loads?include=core,queues"


@dataclass(frozen=True)
class EngineLoad:
    """What a server has to do, over all who use it.

    Attributes:
        running: responses that it generates.
        waiting: responses that it has not begun.
        retracted: responses that it has set back because their KV cache did not fit.
        usage: share of the KV cache in use, in [0, 1].
        largest: most responses that it generates at once; None: it does not say.
    """

    running: int
    waiting: int
    retracted: int
    usage: float
    largest: int | None


async def read_load(calls: ServerCalls) -> EngineLoad | None:
    """Asks a server. Its answer comes from shared memory and takes a millisecond. None: it cannot say.

    Raises:
        EngineError: no answer.
    """
    status, answer = await calls.get(_PATH, _LIMIT_S)
    if status == 404:
        return None
    try:
        if status != 200:
            raise EngineError(f"{calls.url}{_PATH}: HTTP {status}: {answer!r:.200}", "status")
        return _total(answer["loads"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{calls.url}{_PATH}: malformed ({type(error).__name__}: {error})") from error


def _total(ranks: list[dict[str, Any]]) -> EngineLoad | None:
    """Sums the server's data-parallel ranks; the fullest cache counts."""
    if not ranks:
        return None
    most = [int(rank.get("max_running_requests") or 0) for rank in ranks]
    return EngineLoad(
        running=sum(int(rank["num_running_reqs"]) for rank in ranks),
        waiting=sum(int(rank["num_waiting_reqs"]) for rank in ranks),
        retracted=sum(int((rank.get("queues") or {}).get("retracted", 0)) for rank in ranks),
        usage=max(float(rank.get("token_usage", 0.0)) for rank in ranks),
        largest=sum(most) if all(most) else None,
    )
