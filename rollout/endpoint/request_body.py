"""Reads the JSON body of a call. Whatever comes, the answer is an object or an error of the caller."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from aiohttp import web

from rollout.endpoint.api_error import ApiError
from rollout.endpoint.fields import Fields

MAX_BODY_BYTES = 32 << 20  # a conversation of a million tokens has about 4 MB
_ARRIVAL_S = 60.0


async def read_body(request: web.Request) -> Fields:
    """Reads the body of a call as a JSON object.

    Raises:
        ApiError: it is too large, is no JSON, or no object.
    """
    try:
        async with asyncio.timeout(_ARRIVAL_S):
            raw = await request.read()
    except TimeoutError as error:
        raise ApiError(400, f"the body has not arrived within {_ARRIVAL_S:g} s", code="slow_body") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large") from error
    try:
        value: Any = json.loads(raw, parse_constant=_no_number)
        if b"\\ud" in raw.lower():
            _require_unicode(value)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not valid JSON: {what:.200}", code="invalid_json") from error
    return Fields(value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _require_unicode(value: Any) -> None:
    """Raises ValueError if a text has half of a surrogate pair, which no tokenizer can read."""
    json.dumps(value, ensure_ascii=False).encode()
