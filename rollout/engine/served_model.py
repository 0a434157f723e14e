"""Refuses a server that runs elsewhere and has another model, before its weights are replaced by ours."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from runtime.errors import MISCONFIGURED, LeewayError
from runtime.served_model import difference

_LIMIT_S = 10.0


class ServedModelError(LeewayError):
    """A server that has another model than the run; our weights would kill it. The message names both."""

    exit_status = MISCONFIGURED


async def require_same_model(session: aiohttp.ClientSession, url: str, model: Path) -> None:
    """Asks a server which model it has. One that does not answer is not judged: whoever uses it finds that out.

    Args:
        session: used for one request.
        url: http://host:port.
        model: the run's model directory.

    Raises:
        ServedModelError: the server has another model.
    """
    try:
        async with session.get(f"{url}/model_info", timeout=aiohttp.ClientTimeout(total=_LIMIT_S)) as response:
            info = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return
    if isinstance(info, dict) and (found := difference(info, model)) is not None:
        raise ServedModelError(
            f"engine.urls: {url}: {found}; start it with the run's model, or remove it from engine.urls"
        )
