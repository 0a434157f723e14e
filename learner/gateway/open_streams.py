"""The streams that fleets hold open: who holds them, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import grpc

from learner.gateway.auth import Caller, Identities, Role, UnauthenticatedError
from learner.gateway.connection_limits import ConnectionLimits
from learner.gateway.metrics import GatewayMetrics

_TICK_S = 0.5
_CUT_AFTER_S = 10.0  # a stream that was told to end and has not: its client reads no acks


class OpenStream:
    """One open stream.

    Attributes:
        caller: who opened it.
        closing: set once, when the stream is to end; ``code`` and ``text`` then say why.
    """

    def __init__(self, caller: Caller, role: Role, received: Callable[[], int] | None) -> None:
        self.caller = caller
        self.role: Role = role
        self.closing = asyncio.Event()
        self.code = grpc.StatusCode.OK
        self.text = ""
        self.task = asyncio.current_task()
        self._received = received
        self._last = (0, time.monotonic())
        self._seen_closing: float | None = None

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """Asks the stream to end: read nothing more, acknowledge what was read, close."""
        if not self.closing.is_set():
            self.code, self.text = code, text
            self.closing.set()

    def idle_s(self, now: float) -> float:
        """For how long nothing was received; 0 for a stream that only sends."""
        if self._received is None:
            return 0.0
        received = self._received()
        if received != self._last[0]:
            self._last = (received, now)
        return now - self._last[1]

    def overdue(self, now: float) -> bool:
        """Whether it should have ended long ago."""
        if self._seen_closing is None and self.closing.is_set():
            self._seen_closing = now
        return self._seen_closing is not None and now - self._seen_closing > _CUT_AFTER_S


class OpenStreams:
    """All open streams of a gateway.

    Args:
        identities: who is revoked when their content changes.
        limits: how many may be open.
        idle_s: a stream on which nothing was received for so long is ended.
        meters: told how many are open.
    """

    def __init__(self, identities: Identities, limits: ConnectionLimits, idle_s: float, meters: GatewayMetrics) -> None:
        self._identities = identities
        self._limits = limits
        self._idle_s = idle_s
        self._meters = meters
        self._open: set[OpenStream] = set()
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.contextmanager
    def opened(self, caller: Caller, role: Role, received: Callable[[], int] | None = None) -> Iterator[OpenStream]:
        """Counts the calling task's stream while the block runs. Raises ExhaustedError.

        Args:
            caller: who opened it.
            role: what its caller must remain.
            received: how many messages it has received so far, for streams that may fall idle.
        """
        self._limits.open(caller.fleet)
        self._meters.stream(caller.fleet, 1)
        stream = OpenStream(caller, role, received)
        self._open.add(stream)
        self._none.clear()
        try:
            yield stream
        finally:
            self._limits.close(caller.fleet)
            self._meters.stream(caller.fleet, -1)
            self._open.discard(stream)
            if not self._open:
                self._none.set()

    def end_all(self, code: grpc.StatusCode, text: str) -> None:
        """Asks every stream to end."""
        for stream in self._open:
            stream.end(code, text)

    async def none(self) -> None:
        """Waits until no stream is open."""
        await self._none.wait()

    async def run(self) -> None:
        """Ends what must not stay open, for ever: streams of revoked callers, idle ones, and those that do not end."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """One look at every stream; ``now`` in seconds, monotonic."""
        changed = self._identities.reload()
        for stream in self._open:
            if changed:
                self._require_valid(stream)
            if stream.idle_s(now) > self._idle_s:
                stream.end(grpc.StatusCode.UNAVAILABLE, f"idle: nothing was sent for {self._idle_s:g} s; connect again")
            if stream.overdue(now) and stream.task is not None:
                stream.task.cancel()

    def _require_valid(self, stream: OpenStream) -> None:
        try:
            caller = self._identities.caller(stream.caller.credentials)
        except UnauthenticatedError:
            stream.end(grpc.StatusCode.UNAUTHENTICATED, "these credentials have been revoked")
            return
        if caller.fleet != stream.caller.fleet:
            stream.end(grpc.StatusCode.UNAUTHENTICATED, "these credentials now belong to another fleet")
        elif stream.role not in caller.roles:
            stream.end(grpc.StatusCode.PERMISSION_DENIED, f"the role {stream.role!r} has been withdrawn")
