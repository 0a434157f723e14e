"""One Submit stream that never forgets: what is not acknowledged is sent again on the next stream, same group id."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from leeway.v1 import rollout_pb2
from rollout.client.backoff import Backoff
from rollout.client.endpoints import Endpoints
from runtime.errors import REFUSED, LeewayError

_MESSAGE_BYTES = 512 << 10  # groups that wait go together, up to here: the cost per message is shared
_MESSAGE_GROUPS = 64
# Tags of SubmitRequest's fields group and more: (field number << 3) | 2, length-delimited.
_GROUP, _MORE = 2 << 3 | 2, 4 << 3 | 2
_TOO_LARGE = "larger than max"  # in gRPC's own words; RESOURCE_EXHAUSTED is also said of limits that pass


class AuthError(LeewayError):
    """The gateway does not accept the credentials, or does not let them do this. Trying again does not help."""

    exit_status = REFUSED


@dataclass(frozen=True)
class _Pending:
    """A group that waits for its ack."""

    sequence: int
    group_id: str
    encoded: bytes  # the SubmitRequest
    ack: asyncio.Future[rollout_pb2.Ack]


class SubmitStream:
    """Sends groups and gives each its ack, over as many gRPC streams as it takes.

    Args:
        endpoints: the gateways.
        metadata: the credentials.
        max_message_bytes: what the channel lets through.
        ack_timeout_s: with groups waiting and no ack for so long, the stream is taken for dead and opened anew.

    Attributes:
        opened: streams so far.
    """

    def __init__(self, endpoints: Endpoints, metadata: Any, max_message_bytes: int, ack_timeout_s: float) -> None:
        self._endpoints = endpoints
        self._metadata = metadata
        self._ack_timeout_s = ack_timeout_s
        self.opened = 0
        self._sequence = 0
        self._pending: dict[int, _Pending] = {}  # in the order of sequences
        self._unsent: deque[int] = deque()  # those that the stream now open has not written
        self._wake = asyncio.Event()
        self._message_bytes = min(_MESSAGE_BYTES, max_message_bytes // 2)
        self._sent_up_to = 0  # highest sequence written on the stream now open
        self._several = False  # whether a message on it held more than one group
        self._failure: AuthError | None = None
        self._backoff = Backoff(0.1, 5.0)
        self._task: asyncio.Task[None] | None = None

    async def send(self, group_id: str, payload: bytes, lease_id: str) -> rollout_pb2.Ack:
        """Sends one group, serialized, and waits for its ack, whatever its outcome. Raises AuthError."""
        if self._failure:
            raise self._failure
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._sequence += 1
        sequence = self._sequence
        head = rollout_pb2.SubmitRequest(sequence=sequence, lease_id=lease_id).SerializeToString()
        encoded = b"".join([head, _prefix(_GROUP, payload), payload])
        future: asyncio.Future[rollout_pb2.Ack] = asyncio.get_running_loop().create_future()
        self._pending[sequence] = _Pending(sequence, group_id, encoded, future)
        self._unsent.append(sequence)
        self._wake.set()
        try:
            return await future
        finally:
            self._pending.pop(sequence, None)

    @property
    def unacked(self) -> int:
        """Groups that wait for their acks."""
        return len(self._pending)

    async def close(self) -> None:
        """Ends the stream; sends still waiting are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for pending in self._pending.values():
            pending.ack.cancel()

    async def _run(self) -> None:
        try:
            while self._failure is None:
                if not self._pending:
                    self._wake.clear()
                    await self._wake.wait()
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
        for pending in self._pending.values():
            if not pending.ack.done():
                pending.ack.set_exception(error)

    async def _one_stream(self) -> grpc.aio.AioRpcError | None:
        """Writes everything pending in order and handles acks, until the stream ends. Returns how it failed, if it did."""
        self._sent_up_to = 0
        self._several = False
        self._unsent = deque(self._pending)
        self._wake.set()
        self.opened += 1
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
                await self._wake.wait()
                self._wake.clear()
                while message := self._next_message():
                    await call.write(message)

    def _next_message(self) -> bytes:
        """What waits, as far as it fits in one message; empty when nothing does."""
        pieces: list[bytes] = []
        size = groups = 0
        while self._unsent and groups < _MESSAGE_GROUPS:
            pending = self._pending.get(self._unsent[0])
            if pending is not None:
                if pieces and size + len(pending.encoded) > self._message_bytes:
                    break
                if pieces:
                    pieces.append(_prefix(_MORE, pending.encoded))
                pieces.append(pending.encoded)
                size += len(pending.encoded)
                groups += 1
                self._sent_up_to = pending.sequence
            self._unsent.popleft()
        self._several |= groups > 1
        return b"".join(pieces)

    async def _watch(self, call: Any) -> None:
        """Cancels a call on which the oldest group gets no ack: a connection cut without a word."""
        while True:
            oldest = next(iter(self._pending), None)
            await asyncio.sleep(self._ack_timeout_s)
            if oldest is not None and oldest in self._pending and oldest <= self._sent_up_to:
                call.cancel()
                return

    def _settle(self, acks: Iterable[rollout_pb2.Ack]) -> None:
        for ack in acks:
            pending = self._pending.get(ack.sequence)
            if pending is not None and not pending.ack.done():
                pending.ack.set_result(ack)

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        """What a failed stream means for the groups on it."""
        code, details = error.code(), error.details()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            self._failure = AuthError(f"the gateway refuses the credentials: {details}")
            self._fail_all(self._failure)
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and self._pending and _TOO_LARGE in str(details):
            self._refused_as_too_large(str(details))
        else:
            structlog.get_logger().warning("submit stream broke", code=code.name, details=details)

    def _refused_as_too_large(self, details: str) -> None:
        """One message over the gateway's limit breaks the stream for all, and would for ever."""
        if self._several:
            self._message_bytes = 0  # from now on each group goes alone, and only its own size counts
            return
        largest = max(self._pending.values(), key=lambda pending: len(pending.encoded))
        value = f"{len(largest.encoded)} bytes: {details}"
        self._settle([_rejected(largest, reason="message_too_large", value=value)])


def _prefix(tag: int, message: bytes) -> bytes:
    """What comes before a message inside another one: the field's tag, the length as a varint."""
    prefix, length = bytearray([tag]), len(message)
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def _rejected(pending: _Pending, reason: str, value: str) -> rollout_pb2.Ack:
    return rollout_pb2.Ack(
        sequence=pending.sequence,
        group_id=pending.group_id,
        outcome=rollout_pb2.OUTCOME_REJECTED,
        reason=reason,
        field="group",
        value=value[:128],
    )
