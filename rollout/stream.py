"""One Submit stream that never forgets: what is not acknowledged is sent again on the next stream, same group id."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from leeway.v1 import rollout_pb2
from rollout.backoff import Backoff
from rollout.endpoints import Endpoints

_TOO_LARGE = "larger than max"  # in gRPC's own words; RESOURCE_EXHAUSTED is also said of limits that pass


class AuthError(Exception):
    """The gateway does not accept the credentials, or does not let them do this. Trying again does not help."""


class SubmitStream:
    """Sends groups and gives each its ack, over as many gRPC streams as it takes.

    Args:
        endpoints: the gateways.
        metadata: the credentials.
        ack_timeout_s: with groups waiting and no ack for so long, the stream is taken for dead and opened anew.
    """

    def __init__(self, endpoints: Endpoints, metadata: Any, ack_timeout_s: float) -> None:
        self._endpoints = endpoints
        self._metadata = metadata
        self._ack_timeout_s = ack_timeout_s
        self._sequence = 0
        self._pending: dict[int, tuple[rollout_pb2.SubmitRequest, asyncio.Future[rollout_pb2.Ack]]] = {}
        self._unsent = asyncio.Condition()
        self._sent_up_to = 0  # highest sequence written on the stream now open
        self._failure: AuthError | None = None
        self._backoff = Backoff(0.1, 5.0)
        self._task: asyncio.Task[None] | None = None

    async def send(self, group: rollout_pb2.Group, lease_id: str) -> rollout_pb2.Ack:
        """Sends one group and waits for its ack, whatever its outcome. Raises AuthError."""
        if self._failure:
            raise self._failure
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._sequence += 1
        sequence = self._sequence
        request = rollout_pb2.SubmitRequest(sequence=sequence, group=group, lease_id=lease_id)
        future: asyncio.Future[rollout_pb2.Ack] = asyncio.get_running_loop().create_future()
        self._pending[sequence] = (request, future)
        try:
            async with self._unsent:
                self._unsent.notify_all()
            return await future
        finally:
            self._pending.pop(sequence, None)

    async def close(self) -> None:
        """Ends the stream; sends still waiting are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._pending.values():
            future.cancel()

    async def _run(self) -> None:
        try:
            while self._failure is None:
                await self._next_unsent(after=0)
                error = await self._one_stream()
                if error is not None:
                    self._judge(error)
                if self._failure is None:
                    await self._backoff.wait()
        except Exception as error:
            # A defect here must not leave every send waiting for ever.
            self._fail_all(error)
            raise

    def _fail_all(self, error: Exception) -> None:
        for _, future in self._pending.values():
            if not future.done():
                future.set_exception(error)

    async def _one_stream(self) -> grpc.aio.AioRpcError | None:
        """Writes everything pending in order and handles acks, until the stream ends. Returns how it failed, if it did."""
        self._sent_up_to = 0
        stub = self._endpoints.stub
        call = stub.Submit(metadata=self._metadata)
        writer = asyncio.create_task(self._write(call))
        watchdog = asyncio.create_task(self._watch(call))
        try:
            async for response in call:
                self._backoff.reset()
                self._settle(response.acks)
        except grpc.aio.AioRpcError as error:
            self._endpoints.move_on(stub)
            return error
        except asyncio.CancelledError:
            # Ours, or the watchdog's cancellation of the call: the latter is just one more broken stream.
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            self._endpoints.move_on(stub)
            structlog.get_logger().warning("submit stream gave no acks, opening it anew", waited_s=self._ack_timeout_s)
        finally:
            for task in (writer, watchdog):
                task.cancel()
            await asyncio.gather(writer, watchdog, return_exceptions=True)
            call.cancel()
        return None

    async def _write(self, call: Any) -> None:
        # A write on a broken stream raises too; the reading side learns why, so here it only ends the writing.
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            while True:
                sequence = await self._next_unsent(after=self._sent_up_to)
                request, _ = self._pending[sequence]
                self._sent_up_to = sequence
                await call.write(request)

    async def _next_unsent(self, after: int) -> int:
        """The lowest pending sequence above ``after``; waits for one."""
        async with self._unsent:
            while True:
                # Sequences are inserted in ascending order, so the first match is the lowest.
                found = next((sequence for sequence in self._pending if sequence > after), None)
                if found is not None:
                    return found
                await self._unsent.wait()

    async def _watch(self, call: Any) -> None:
        """Cancels a call on which the oldest group gets no ack: a connection cut without a word."""
        while True:
            oldest = next(iter(self._pending), None)
            await asyncio.sleep(self._ack_timeout_s)
            if oldest is not None and oldest in self._pending and oldest <= self._sent_up_to:
                call.cancel()
                return

    def _settle(self, acks: Sequence[rollout_pb2.Ack]) -> None:
        for ack in acks:
            entry = self._pending.get(ack.sequence)
            if entry is not None and not entry[1].done():
                entry[1].set_result(ack)

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        """What a failed stream means for the groups on it."""
        code, details = error.code(), error.details()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            self._failure = AuthError(f"the gateway refuses the credentials: {details}")
            self._fail_all(self._failure)
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and self._pending and _TOO_LARGE in str(details):
            # One message over the gateway's limit breaks the stream for all, and would for ever: it can only be the largest.
            sequence = max(self._pending, key=lambda key: self._pending[key][0].ByteSize())
            request, _ = self._pending[sequence]
            size = f"{request.ByteSize()} bytes"
            self._settle([_rejected(request, reason="message_too_large", value=f"{size}: {details}")])
        else:
            structlog.get_logger().warning("submit stream broke", code=code.name, details=details)


def _rejected(request: rollout_pb2.SubmitRequest, reason: str, value: str) -> rollout_pb2.Ack:
    return rollout_pb2.Ack(
        sequence=request.sequence,
        group_id=request.group.group_id,
        outcome=rollout_pb2.OUTCOME_REJECTED,
        reason=reason,
        field="group",
        value=value[:128],
    )
