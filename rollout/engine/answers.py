"""Reads SGLang's answers to /generate: whole responses, and responses that are streamed in pieces."""

from __future__ import annotations

from typing import Any

from rollout.engine.errors import BusyError, EngineError, NotFiniteError, RefusedError, UnattributedError, WeightsError
from rollout.engine.response import Response, VersionSpan, covers
from rollout.engine.routing_reader import RoutingReader

REFUSALS = (400, 413, 422)
BUSY = (429, 503)
NO_KEY = (401, 403)

_NAN = "NaN happened"  # SGLang ends a response with this as the matched stop, and an end token in place of the bad one


def read_response(item: dict[str, Any], url: str, routing: RoutingReader | None = None) -> Response:
    """Reads a complete response.

    Args:
        item: the JSON object of one response.
        url: the server's, for messages.
        routing: reads the experts of its tokens; None: nobody has asked for them.

    Raises:
        EngineError: it is malformed, or ended in a way that was not asked for.
        WeightsError: the server's weights are not ours.
        NotFiniteError: its logits were not finite.
        UnattributedError: it does not say which version generated what.
    """
    try:
        meta, reason = item["meta_info"], item["meta_info"]["finish_reason"]
        finish, matched = reason["type"], reason.get("matched")
        if finish == "abort":  # perhaps before it had a token
            return Response(list(item.get("output_ids") or []), finish, [], message=str(reason.get("message", "")))
        tokens = [int(token) for token in item["output_ids"]]
        spans = _spans(meta, len(tokens), url)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"{url}/generate: malformed response ({type(error).__name__}: {error})") from error
    _require_asked(reason, finish, matched, url)
    stopped_by = matched if finish == "stop" and isinstance(matched, int) else None
    routed = None if routing is None else routing.read(meta, len(tokens))
    return Response(tokens, finish, spans, stopped_by, routed=routed)


class StreamedAnswer:
    """One response that arrives in pieces: new tokens each, or all tokens so far each, as the server was started.

    Only the last piece says which version generated which token. Those before it name the version that was loaded when they
    were made: that is what is known of tokens whose server died.

    Args:
        url: the server's, for messages.
        routing: reads the experts of its tokens; None: nobody has asked for them.

    Attributes:
        tokens: those that have arrived.
        response: the whole of it once it is complete; None until then.
    """

    def __init__(self, url: str, routing: RoutingReader | None = None) -> None:
        self.tokens: list[int] = []
        self.response: Response | None = None
        self._url = url
        self._routing = routing

    def take(self, item: dict[str, Any]) -> tuple[list[int], int | None]:
        """Takes one piece and returns its new tokens, with the version that generated them; None where it is not known yet.

        Raises:
            BusyError: the server has too much to do.
            RefusedError: the request is wrong.
            EngineError, WeightsError, NotFiniteError, UnattributedError: as ``read_response`` does.
        """
        self._require_no_error(item)
        try:
            ids, meta = item["output_ids"], item["meta_info"]
            reason = meta.get("finish_reason")
            new = self._new(ids, int(meta["completion_tokens"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(f"{self._url}/generate: malformed piece ({type(error).__name__}: {error})") from error
        self.tokens += new
        if reason is None:
            return new, self._label(meta) if new else None
        if isinstance(reason, dict) and reason.get("type") == "abort":
            self._end_aborted(meta, reason)
        else:
            self.response = read_response({**item, "output_ids": self.tokens}, self._url, self._routing)
        return new, None

    def _new(self, ids: list[Any], completed: int) -> list[int]:
        """Returns the tokens of a piece that had not arrived; the piece has ``completed`` tokens up to its end."""
        before = len(self.tokens)
        if len(ids) == completed:  # all so far
            return [int(token) for token in ids[before:]]
        # An aborted response may end with a piece that repeats its last token.
        new = [int(token) for token in ids[: max(completed - before, 0)]]
        if before + len(new) != completed:
            raise EngineError(
                f"{self._url}/generate: {before} tokens and a piece of {len(ids)} are not the {completed} that it counts"
            )
        return new

    def _end_aborted(self, meta: dict[str, Any], reason: dict[str, Any]) -> None:
        said, status = str(reason.get("message", "")), reason.get("status_code")
        message = f"{self._url}/generate: aborted: {said}"
        if status in REFUSALS:
            raise RefusedError(message)
        if status in BUSY:
            raise BusyError(message, None)
        spans: list[VersionSpan] = []
        if self.tokens and meta.get("weight_versions"):
            spans = _spans(meta, len(self.tokens), self._url)
        elif self.tokens:
            spans = [VersionSpan(self._label(meta), 0, len(self.tokens))]
        routed = self._routing.read(meta, len(self.tokens)) if self._routing is not None and self.tokens else None
        self.response = Response(self.tokens, "abort", spans, message=said, routed=routed)

    def _label(self, meta: dict[str, Any]) -> int:
        if meta.get("weight_version") is None:
            raise UnattributedError(f"{self._url}/generate", "meta_info.weight_version")
        return _version(meta["weight_version"], self._url)

    def _require_no_error(self, item: Any) -> None:
        if not isinstance(item, dict):
            raise EngineError(f"{self._url}/generate: malformed piece: {item!r:.200}")
        if (error := item.get("error")) is not None:
            code = error.get("code") if isinstance(error, dict) else None
            said = f"{self._url}/generate: {error!r:.500}"
            if code in REFUSALS:
                raise RefusedError(said, too_large=code == 413)
            if code in BUSY:
                raise BusyError(said, None)
            raise EngineError(said, "status")


def _spans(meta: dict[str, Any], tokens: int, url: str) -> list[VersionSpan]:
    if tokens and not meta.get("weight_versions"):
        raise UnattributedError(f"{url}/generate", "meta_info.weight_versions")
    found = [
        VersionSpan(_version(span["version"], url), int(span["start"]), int(span["end"]))
        for span in meta["weight_versions"]
    ]
    spans = [span for span in found if span.end > span.start]
    if not covers(spans, tokens):
        ranges = [(span.start, span.end) for span in spans]
        raise EngineError(
            f"{url}/generate: spans {ranges} do not cover the {tokens} tokens of a response once each: a token in no span "
            "would carry no loss",
            "spans",
        )
    return spans


def _version(label: Any, url: str) -> int:
    """Reads the label of a server's weights. Raises WeightsError when it is none of ours."""
    if not str(label).isdecimal():
        raise WeightsError(f"{url}: answered with weights labelled {str(label)!r}, which no refit loaded", "restart")
    return int(label)


def _require_asked(reason: dict[str, Any], finish: str, matched: Any, url: str) -> None:
    if finish not in ("stop", "length"):
        raise EngineError(f"{url}/generate: finish_reason {finish!r}")
    if matched == _NAN:
        raise NotFiniteError(f"{url}/generate: finish_reason {reason!r}: its logits were not finite")
    if isinstance(matched, str):  # we send no stop strings
        raise EngineError(f"{url}/generate: finish_reason {reason!r}: ended for a reason that was not asked for")
