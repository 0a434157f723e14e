"""Delivers groups over Submit streams: what a broken stream did not acknowledge is sent again on the next one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from leeway.v1 import rollout_pb2
from rollout.client.backoff import Backoff
from rollout.client.credentials import Presented
from rollout.client.endpoints import Endpoints
from rollout.client.errors import AuthError
from rollout.client.framing import joined, submit_request

_log = logging.getLogger(__name__)

_MESSAGE_BYTES = 512 << 10  # groups that wait travel in one message, up to here: the cost per message is shared
_MESSAGE_GROUPS = 64
_TOO_LARGE = "larger than max"  # gRPC's own words; RESOURCE_EXHAUSTED alone may also be a limit that passes


@dataclass(frozen=True)
class _Pending:
    """A group that waits for its ack."""

    sequence: int
    group_id: str
    encoded: bytes  # the SubmitRequest
    ack: asyncio.Future[rollout_pb2.Ack]


class SubmitStream:
    """Sends groups and returns each one's ack, over as many gRPC streams as it takes.

    Args:
        endpoints: the gateways.
        max_message_bytes: largest message that the channel lets through.
        ack_timeout_s: a stream on which groups wait and no ack came for this long is cancelled and reopened.

    Attributes:
        opened: streams opened so far.
    """

    def __init__(self, endpoints: Endpoints, max_message_bytes: int, ack_timeout_s: float) -> None:
        self._endpoints = endpoints
        self._presented = Presented(())  # on the open stream
        self._ack_timeout_s = ack_timeout_s
        self.opened = 0
        self._sequence = 0
        self._pending: dict[int, _Pending] = {}  # ordered by sequence
        self._unsent: deque[int] = deque()  # sequences that the open stream has not written yet
        self._wake = asyncio.Event()
        self._message_bytes = min(_MESSAGE_BYTES, max_message_bytes // 2)
        self._sent_up_to = 0  # highest sequence written on the open stream
        self._several = False  # whether a message on the open stream contained more than one group
        self._failure: BaseException | None = None
        self._backoff = Backoff(0.1, 5.0)
        self._task: asyncio.Task[None] | None = None

    async def send(self, group_id: str, payload: bytes, lease_id: str) -> rollout_pb2.Ack:
        """Sends one serialized group and waits for its ack, whatever its outcome. Raises AuthError."""
        if self._failure:
            raise self._failure
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._on_end)
        self._sequence += 1
        sequence = self._sequence
        future: asyncio.Future[rollout_pb2.Ack] = asyncio.get_running_loop().create_future()
        encoded = submit_request(sequence, lease_id, payload)
        self._pending[sequence] = _Pending(sequence, group_id, encoded, future)
        self._unsent.append(sequence)
        self._wake.set()
        try:
            return await future
        finally:
            self._pending.pop(sequence, None)

    @property
    def unacked(self) -> int:
        """Number of groups that wait for their acks."""
        return len(self._pending)

    async def close(self) -> None:
        """Ends the stream; sends that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for pending in self._pending.values():
            pending.ack.cancel()

    async def _run(self) -> None:
        while self._failure is None:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
            error = await self._one_stream()
            if error is not None:
                self._on_broken_stream(error)
            if self._failure is None:
                await self._backoff.wait()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Fails every send when ``_run`` ends with a defect: none may wait for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        self._failure = error
        for pending in self._pending.values():
            if not pending.ack.done():
                pending.ack.set_exception(error)

    async def _one_stream(self) -> grpc.aio.AioRpcError | None:
        """Writes everything pending in order and handles acks until the stream ends. Returns its error, if it failed."""
        self._sent_up_to = 0
        self._several = False
        self._unsent = deque(self._pending)
        self._wake.set()
        self.opened += 1
        stub, self._presented = self._endpoints.stub, self._endpoints.presented
        call = stub.Submit(metadata=self._presented.metadata)
        writer = asyncio.create_task(self._write(call))
        watchdog = asyncio.create_task(self._watch(call))
        try:
            async for response in call:
                self._backoff.reset()
                self._resolve(response.acks)
        except grpc.aio.AioRpcError as error:
            self._endpoints.move_on(stub)
            return error
        except asyncio.CancelledError:
            # This task was cancelled, or the watchdog cancelled the call: the latter is one more broken stream.
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            if self._endpoints.presented != self._presented:
                _log.info("submit stream reopened: its credentials have been renewed")
            else:
                self._endpoints.move_on(stub)
                _log.warning("submit stream gave no ack for %g s, reopening it", self._ack_timeout_s)
        finally:
            for task in (writer, watchdog):
                task.cancel()
            await asyncio.gather(writer, watchdog, return_exceptions=True)
            call.cancel()
        return None

    async def _write(self, call: Any) -> None:
        # A write on a broken stream raises too; the reading side learns the cause, so here it only ends the writing.
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while message := self._next_message():
                    await call.write(message)

    def _next_message(self) -> bytes:
        """Encodes the next unsent groups, as many as fit in one message; empty when there is none."""
        requests: list[bytes] = []
        size = 0
        while self._unsent and len(requests) < _MESSAGE_GROUPS:
            pending = self._pending.get(self._unsent[0])
            if pending is not None:
                if requests and size + len(pending.encoded) > self._message_bytes:
                    break
                requests.append(pending.encoded)
                size += len(pending.encoded)
                self._sent_up_to = pending.sequence
            self._unsent.popleft()
        self._several |= len(requests) > 1
        return joined(requests)

    async def _watch(self, call: Any) -> None:
        """Cancels a call whose oldest group gets no ack in time: a connection that was cut silently."""
        while True:
            oldest = next(iter(self._pending), None)
            await asyncio.sleep(self._ack_timeout_s)
            if oldest is not None and oldest in self._pending and oldest <= self._sent_up_to:
                call.cancel()
                return

    def _resolve(self, acks: Iterable[rollout_pb2.Ack]) -> None:
        for ack in acks:
            pending = self._pending.get(ack.sequence)
            if pending is not None and not pending.ack.done():
                pending.ack.set_result(ack)

    def _on_broken_stream(self, error: grpc.aio.AioRpcError) -> None:
        """Fails all sends, rejects the group that is too large, or leaves everything to the next stream."""
        code, details = error.code(), error.details()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            if self._endpoints.presented != self._presented:
                _log.info("submit stream refused (%s); opening it again with the renewed credentials", details)
            else:
                self._fail_all(AuthError(f"the gateway refuses the credentials: {details}"))
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and self._pending and _TOO_LARGE in str(details):
            self._on_too_large(str(details))
        else:
            _log.warning("submit stream broke: %s: %s", code.name, details)

    def _on_too_large(self, details: str) -> None:
        """Handles a message over the gateway's limit, which breaks the stream for all groups and would do so each time."""
        if self._several:
            self._message_bytes = 0  # from now on each group travels alone, and only its own size counts
            return
        largest = max(self._pending.values(), key=lambda pending: len(pending.encoded))
        value = f"{len(largest.encoded)} bytes: {details}"
        self._resolve([_rejected(largest, reason="message_too_large", value=value)])


def _rejected(pending: _Pending, reason: str, value: str) -> rollout_pb2.Ack:
    return rollout_pb2.Ack(
        sequence=pending.sequence,
        group_id=pending.group_id,
        outcome=rollout_pb2.OUTCOME_REJECTED,
        reason=reason,
        field="group",
        value=value[:128],
    )
