"""Episodes for agents elsewhere: they ask for one over HTTP, and report its reward."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from rollout.endpoint.answered_call import AnsweredCall
from rollout.endpoint.api_error import ApiError, bad
from rollout.endpoint.caller import require_token
from rollout.endpoint.fields import Fields
from rollout.endpoint.request_body import read_body
from rollout.endpoint.served_policy import ServedPolicy
from rollout.episodes.offers import EpisodeOffer
from rollout.tasks import TaskError
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score, as_score

_WAIT_S, _LONGEST_WAIT_S = 30.0, 300.0


class RemoteEpisodes:
    """The handlers of the episodes API.

    Args:
        served: what the endpoint serves.
        token: with which agents elsewhere ask for episodes; None: nobody may.
        url: base URL that they are told, with /v1 at its end.
    """

    def __init__(self, served: ServedPolicy, token: str | None, url: str) -> None:
        self._served = served
        self._token = token
        self._url = url
        self._answered = AnsweredCall("episodes", served.observer)

    def routes(self) -> list[web.RouteDef]:
        """Its paths and their handlers."""
        return [
            web.post("/v1/episodes", self._answered(self._take)),
            web.post("/v1/episodes/{key}/reward", self._answered(self._reward)),
        ]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        """Answers 200 with an episode, or 204 when there was none to have for ``wait_s`` seconds."""
        require_token(request, self._token)
        wait_s = _wait_s(await read_body(request)) if request.can_read_body else _WAIT_S
        offer = await self._served.offers.take(wait_s)
        if offer is None:
            return web.Response(status=204)
        return web.json_response(self._described(offer))

    def _described(self, offer: EpisodeOffer) -> dict[str, Any]:
        prompt, limits = offer.prompt, self._served.limits
        described: dict[str, Any] = {
            "key": offer.episode.key,
            "base_url": self._url,
            "model": self._served.model,
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.text,
            "messages": [dict(message) for message in prompt.messages],
            "limits": {"turns": limits.turns, "tokens": limits.tokens, "seconds": limits.seconds},
        }
        if _is_json(prompt.data):
            described["data"] = prompt.data
        return described

    async def _reward(self, request: web.Request) -> web.StreamResponse:
        """Ends an episode with its reward. Its key is in the path: who has it may."""
        episode = self._served.book.find(request.match_info["key"])
        outcome = _outcome(await read_body(request))
        if episode.reward.done():
            raise ApiError(409, "this episode has a reward already", code="already_rewarded")
        if isinstance(outcome, Score):
            episode.reward.set_result(outcome)
        else:
            episode.reward.set_exception(RewardError("rollout_failed", f"its agent gave it no reward: {outcome}"))
        return web.json_response({"key": episode.key})


def _wait_s(body: Fields) -> float:
    wait_s = body.values.get("wait_s", _WAIT_S)
    if isinstance(wait_s, bool) or not isinstance(wait_s, (int, float)) or not 0 <= wait_s <= _LONGEST_WAIT_S:
        raise bad("wait_s", wait_s, f"seconds, from 0 to {_LONGEST_WAIT_S:g}")
    return float(wait_s)


def _outcome(body: Fields) -> Score | str:
    """Returns the reward of an episode, or the reason why it has none."""
    names = sorted(body.values)
    if names == ["unscored"]:
        reason = body.text("unscored").strip()
        if not reason:
            raise bad("unscored", reason, "the reason why the episode has no reward")
        return reason
    if names != ["reward"]:
        raise bad("the body", names, 'exactly one of {"reward": ...} and {"unscored": "reason"}')
    reward = body.values["reward"]
    if isinstance(reward, dict) and set(reward) == {"parts"}:
        reward = reward["parts"]
    try:
        return as_score(reward)
    except TaskError as error:
        raise ApiError(400, str(error), param="reward", code="invalid_value") from error


def _is_json(data: Any) -> bool:
    if data is None:
        return False
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
