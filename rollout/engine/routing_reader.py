"""Reads which experts SGLang has sent a request's tokens to, and counts the responses that do not say it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import structlog

from rollout.engine.routed_tokens import RoutedTokens
from runtime.routing_record import Ids, RoutingShape, first_doubled, first_outside
from runtime.settings import SettingsError

# What a response says of its experts: which ones; nothing; what cannot be; which ones, and no message has room for them.
Told = Literal["recorded", "absent", "malformed", "too_large"]
TOLD: tuple[Told, ...] = get_args(Told)
ASKED = {"return_routed_experts": True}  # in the body of a request
SERVER_FLAG = "--enable-return-routed-experts"

_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")


class RoutingReader:
    """Reads the experts in SGLang's answers, for one model.

    SGLang returns int32 in base64, [prompt and response without their last token, layers of the model, experts of a token]:
    where a token was read more than once, as it was last, since it keeps them beside the KV cache. Layers without experts
    have zeros.

    A response whose experts are not known goes without them: its tokens and reward are as good as others'. The first of each
    kind is logged, all are counted.

    Args:
        layers: of the model, those without experts too.
        top_k: experts of a token.
        experts: of a layer, without those that take every token.

    Attributes:
        told: number of responses by what they say; those that are too large have been counted as recorded too.
    """

    def __init__(self, layers: int, top_k: int, experts: int) -> None:
        self.told: dict[Told, int] = dict.fromkeys(TOLD, 0)
        self._layers, self._top_k, self._experts = layers, top_k, experts

    @classmethod
    def of(cls, model: Path) -> RoutingReader:
        """The reader for a Hugging Face directory's model. Raises SettingsError if it has no experts."""
        try:
            config = json.loads((model / "config.json").read_text())
            text = config.get("text_config") or config
            experts = next((text[key] for key in _EXPERT_KEYS if text.get(key)), None)
            if experts is not None:
                return cls(int(text["num_hidden_layers"]), int(text["num_experts_per_tok"]), int(experts))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise SettingsError(f"engine.return_routed_experts = true: {model / 'config.json'}: {error!r}") from error
        raise SettingsError(
            f"engine.return_routed_experts = true: {model / 'config.json'} has no experts ({', '.join(_EXPERT_KEYS)}): set "
            "it to false, or use a mixture"
        )

    def read(self, meta: Mapping[str, Any], tokens: int) -> RoutedTokens | None:
        """Returns the experts of a request's tokens; None where the answer does not say them.

        Args:
            meta: "meta_info" of the answer.
            tokens: of the response.
        """
        encoded = meta.get("routed_experts")
        if encoded is None:
            self._note("absent", f"start the engine with {SERVER_FLAG}")
            return None
        try:
            known = self._decoded(encoded, int(meta["prompt_tokens"]) + tokens - 1)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._note("malformed", f"{type(error).__name__}: {error}")
            return None
        self._note("recorded")
        return known

    def dropped(self, responses: int) -> None:
        """Counts responses of a group that goes without the experts, since it would be too large a message with them."""
        if responses and not self.told["too_large"]:
            structlog.get_logger().warning(
                "a group is too large with the experts that its tokens were sent to; such groups go without them, and are "
                "counted",
                reason="max_message_bytes",
                responses=responses,
            )
        self.told["too_large"] += responses

    def _decoded(self, encoded: str, rows: int) -> RoutedTokens | None:
        """Decodes and checks the experts of ``rows`` tokens. Raises ValueError when they cannot be true."""
        ids = np.frombuffer(base64.b64decode(encoded, validate=True), "<i4").reshape(-1, self._layers, self._top_k)
        if len(ids) < rows:
            raise ValueError(f"{len(ids)} tokens have experts, {rows} were read")
        layers = self._sparse(ids)
        ids = ids[:rows, layers]
        place = first_outside(ids, self._experts)
        place = first_doubled(ids) if place is None else place
        if place is not None:
            token, layer, choice = place
            raise ValueError(f"token {token} was sent to {ids[place]} in layer {layers[layer]}, as choice {choice}")
        shape = RoutingShape(layers=tuple(layers), top_k=self._top_k, experts=self._experts)
        return RoutedTokens(shape, shape.decode(shape.encode(ids))).first(rows)

    def _sparse(self, ids: Ids) -> list[int]:
        """The layers with experts: no token is sent to expert 0 twice. Of one expert a token it cannot be told: all."""
        dense = (ids == 0).all((0, 2)) if self._top_k > 1 else np.zeros(self._layers, bool)
        found = np.flatnonzero(~dense).tolist()
        if not found:
            raise ValueError("all ids are 0")
        return found

    def _note(self, told: Told, problem: str = "") -> None:
        self.told[told] += 1
        if problem and self.told[told] == 1:
            structlog.get_logger().warning(
                "an engine does not say which experts its tokens were sent to; responses go without them, and are counted",
                problem=problem,
            )
