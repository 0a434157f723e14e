"""Answers the calls of leeway.v1.OperatorService; the contract, proto/leeway/v1/operator.proto, specifies them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from learner.config.changeable import ChangeError
from learner.gateway.call_gate import UNAVAILABLE, CallGate, parsed
from learner.gateway.operator_audit import described
from learner.gateway.operator_metrics import METHODS, OperatorMetrics, outcome_of
from learner.gateway.request_errors import InvalidRequestError
from learner.queue import HaltedError, UnavailableError
from leeway.v1 import operator_pb2
from runtime.errors import LeewayError

T = TypeVar("T")
Answer = Callable[[str, Any], Awaitable[Message]]  # the operator's name and the request
Listing = Callable[[str, Any], AsyncIterator[Message]]

CHANGING = frozenset({"ReplayQuarantine", "PurgeQuarantine", "AddIdentity", "RevokeIdentity", "RequestChange"})
_LIMIT_S = 25.0
_LONG_S = {"RecountLedgers": 600.0, "ReplayQuarantine": 300.0, "ListGroups": 300.0, "ListQuarantine": 300.0}
_REQUESTS = {
    name: getattr(operator_pb2, method.input_type.name)
    for name, method in operator_pb2.DESCRIPTOR.services_by_name["OperatorService"].methods_by_name.items()
}


@dataclass(frozen=True)
class _AdmittedCall:
    method: str
    context: grpc.aio.ServicerContext
    operator: str
    request: Message


class OperatorService:
    """Checks who calls, limits how long an answer may take, counts every call, and logs what was changed by whom.

    Args:
        gate: authenticates callers, and limits how often they call.
        answers: method -> what answers it, for every method with one response.
        listings: method -> what answers it, for every method with a stream of responses.
        metrics: counts the calls.
    """

    def __init__(
        self, gate: CallGate, answers: Mapping[str, Answer], listings: Mapping[str, Listing], metrics: OperatorMetrics
    ) -> None:
        assert sorted([*answers, *listings]) == sorted(METHODS)
        self._gate = gate
        self._answers = answers
        self._listings = listings
        self._metrics = metrics
        self._log = structlog.get_logger(process="gateway")

    async def answer(self, method: str, message: bytes, context: grpc.aio.ServicerContext) -> Message:
        """Answers a call that has one response; ``message`` is the request as it came."""
        with self._counted(method, context):
            call = await self._let_in(method, message, context)
            return await self._limited(call, self._answers[method](call.operator, call.request))

    async def list(self, method: str, message: bytes, context: grpc.aio.ServicerContext) -> None:
        """Answers a call that has a stream of responses; ``message`` is the request as it came."""
        with self._counted(method, context):
            call = await self._let_in(method, message, context)
            await self._limited(call, self._send(call))

    async def _send(self, call: _AdmittedCall) -> None:
        responses: Any = self._listings[call.method](call.operator, call.request)
        async with contextlib.aclosing(responses):
            async for response in responses:
                await call.context.write(response)

    async def _let_in(self, method: str, message: bytes, context: grpc.aio.ServicerContext) -> _AdmittedCall:
        """Ends the call if the caller is no operator, or the request cannot be parsed."""
        caller = await self._gate.caller_of_call(context, "operate")
        return _AdmittedCall(method, context, caller.fleet, await parsed(context, _REQUESTS[method], message))

    async def _limited(self, call: _AdmittedCall, work: Awaitable[T]) -> T:
        """Waits for the answer; ends the call with the status of what goes wrong."""
        limit_s = _LONG_S.get(call.method, _LIMIT_S)
        try:
            async with asyncio.timeout(limit_s):
                answer = await work
        except TimeoutError:
            text = f"not done within {limit_s:g} s: look whether it took effect before you try again"
            self._audit(call, "late", text)
            await call.context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        except LeewayError as error:
            code, text = _refusal(error)
            self._audit(call, outcome_of(code), str(error))
            await call.context.abort(code, text)
        except asyncio.CancelledError:
            self._audit(call, "cancelled", "the caller went away; what had begun goes on")
            raise
        except Exception as error:
            self._audit(call, "failed", repr(error))
            raise
        self._audit(call, "ok", "")
        return answer

    def _audit(self, call: _AdmittedCall, outcome: str, reason: str) -> None:
        """Logs a call that changes something; of the others, what could not be answered because of Redis."""
        if call.method in CHANGING:
            what, peer = described(call.request), call.context.peer()
            self._log.info(
                "operator call",
                operator=call.operator,
                call=call.method,
                what=what,
                outcome=outcome,
                reason=reason,
                peer=peer,
            )
        elif outcome == "unavailable":
            self._log.warning("call refused", call=call.method, error=reason)

    @contextlib.contextmanager
    def _counted(self, method: str, context: grpc.aio.ServicerContext) -> Iterator[None]:
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        except grpc.aio.AbortError:
            outcome = outcome_of(context.code())  # pyright: ignore[reportAttributeAccessIssue] - grpc.aio has it
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._metrics.called(method, outcome)


def _refusal(error: LeewayError) -> tuple[grpc.StatusCode, str]:
    """The status with which a call ends that cannot be answered, and what it says."""
    if isinstance(error, InvalidRequestError | ChangeError):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, UnavailableError) and not isinstance(error, HaltedError):
        return grpc.StatusCode.UNAVAILABLE, UNAVAILABLE  # the reason may name internals: it is in the log
    return grpc.StatusCode.FAILED_PRECONDITION, str(error)
