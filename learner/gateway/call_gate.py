"""What every call goes through before it is answered: credentials, role, limits, and a message that can be parsed."""

from __future__ import annotations

import time
from typing import NoReturn

import grpc
import grpc.aio
import structlog

from learner.config import ConnectionConfig
from learner.gateway.auth import Caller, Identities, PresentedCredentials, Role, UnauthenticatedError
from learner.gateway.connection_limits import ConnectionLimits, ExhaustedError
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.open_streams import OpenStreams
from learner.gateway.parsing import M, MalformedError, parse
from learner.queue import QueueError

UNAVAILABLE = "the queue does not answer; try again in a second"
_DRAINING = "this gateway is draining: connect again, and send every group without an ack again"


class CallGate:
    """Lets calls of fleets and operators in, or ends them with the status that says why not.

    Args:
        identities: authenticates callers.
        config: how many streams an identity may open, and how often it may call.
        metrics: counts streams, and callers without valid credentials.

    Attributes:
        streams: the open streams; its ``run`` must be running.
    """

    def __init__(self, identities: Identities, config: ConnectionConfig, metrics: GatewayMetrics) -> None:
        self._identities = identities
        self._limits = ConnectionLimits(config)
        self._metrics = metrics
        self._draining = False
        self.streams = OpenStreams(identities, self._limits, config.idle_s, metrics)

    def drain(self) -> None:
        """Refuses new calls, and lets streams end as soon as every group they have read has its ack."""
        self._draining = True
        self.streams.end_all(grpc.StatusCode.UNAVAILABLE, _DRAINING)

    async def caller(self, context: grpc.aio.ServicerContext, role: Role | None) -> Caller:
        """Authenticates the caller; aborts the call without valid credentials, without the role, or while draining."""
        try:
            connection = context.auth_context()
            shown = PresentedCredentials.of(context.invocation_metadata(), connection)
            caller = self._identities.caller(shown)
            self._metrics.certificates.presented(caller.fleet, connection)
        except UnauthenticatedError as error:
            self._metrics.unauthenticated()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if role is not None:
            await require_role(context, caller, role)
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, _DRAINING)
        # Appears on the log lines of this call alone: each call is a task.
        structlog.contextvars.bind_contextvars(fleet=caller.fleet)
        return caller

    async def caller_of_call(self, context: grpc.aio.ServicerContext, role: Role | None) -> Caller:
        """Authenticates the caller of a call that is not a stream; aborts it too if the fleet calls too often."""
        caller = await self.caller(context, role)
        try:
            self._limits.call(caller.fleet, time.monotonic())
        except ExhaustedError as error:
            await exhausted(context, error)
        return caller


async def parsed(context: grpc.aio.ServicerContext, kind: type[M], message: bytes) -> M:
    """Parses the message of a call; ends the call with INVALID_ARGUMENT if that cannot be done."""
    try:
        return parse(kind, message)
    except MalformedError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


async def require_role(context: grpc.aio.ServicerContext, caller: Caller, role: Role) -> None:
    """Ends the call with PERMISSION_DENIED if the caller does not have the role."""
    if role not in caller.roles:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{caller.fleet} lacks the role {role!r}")


async def exhausted(context: grpc.aio.ServicerContext, error: ExhaustedError) -> NoReturn:
    """Ends the call; its trailing metadata distinguishes a limit of use from a message over the size limit."""
    delay = (("retry-after-ms", str(error.retry_after_ms)),)
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), delay)


async def unavailable(context: grpc.aio.ServicerContext, error: QueueError) -> NoReturn:
    """Ends the call with UNAVAILABLE; the reason goes to the log only, because it may name internals."""
    structlog.get_logger(process="gateway").warning("call refused", error=str(error))
    await context.abort(grpc.StatusCode.UNAVAILABLE, UNAVAILABLE)
