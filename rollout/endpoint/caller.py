"""Finds out who calls: the key of a call is its episode."""

from __future__ import annotations

import hmac

from aiohttp import web

from rollout.endpoint.api_error import ApiError


def key_of(request: web.Request) -> str:
    """Returns the key that a call has, as OpenAI's clients send it (Authorization: Bearer) or as Anthropic's (x-api-key).

    Raises:
        ApiError: it has none.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "").strip()
    if not key:
        raise ApiError(
            401,
            "no API key: send the episode's key as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'",
            code="missing_api_key",
        )
    return key


def require_token(request: web.Request, token: str | None) -> None:
    """Lets callers pass who have the token of agents elsewhere.

    Raises:
        ApiError: they have not, or nobody may.
    """
    if token is None:
        raise ApiError(
            401, "episodes for agents elsewhere are off: set endpoint.remote_token_file in the worker", code="closed"
        )
    if not hmac.compare_digest(key_of(request).encode(), token.encode()):
        raise ApiError(401, "this is not the token in endpoint.remote_token_file", code="invalid_api_key")
