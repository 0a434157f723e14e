"""Keeps the list of open streams, and ends those of revoked callers, idle ones, and those that do not end by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

import grpc

from learner.gateway.auth import Caller, Identities, Role, UnauthenticatedError
from learner.gateway.connection_limits import ConnectionLimits
from learner.gateway.metrics import GatewayMetrics

_TICK_S = 0.5
_CANCEL_AFTER_S = 10.0  # a stream that was asked to end and has not: its client does not read its acks


class OpenStream:
    """One open stream.

    Args:
        caller: the fleet that opened it.
        role: the role that this fleet must keep.
        received: returns how many messages were received so far; None for a stream that only sends.

    Attributes:
        caller: the fleet that opened it.
        role: the role that this fleet must keep.
        closing: set once, when the stream is to end; ``code`` and ``text`` then say why.
        task: the task that serves it.
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
        """Asks the stream to end: to read nothing more, acknowledge what was read, and close with this status."""
        if not self.closing.is_set():
            self.code, self.text = code, text
            self.closing.set()

    def idle_s(self, now: float) -> float:
        """Seconds since something was received; 0 for a stream that only sends. ``now``: monotonic seconds."""
        if self._received is None:
            return 0.0
        received = self._received()
        if received != self._last[0]:
            self._last = (received, now)
        return now - self._last[1]

    def overdue(self, now: float) -> bool:
        """Whether the stream was asked to end more than 10 s ago. ``now``: monotonic seconds."""
        if self._seen_closing is None and self.closing.is_set():
            self._seen_closing = now
        return self._seen_closing is not None and now - self._seen_closing > _CANCEL_AFTER_S


class OpenStreams:
    """All open streams of a gateway.

    Args:
        identities: a stream ends when its caller is revoked there.
        limits: how many streams may be open.
        idle_s: a stream on which nothing was received for this many seconds is ended.
        metrics: shows how many streams are open.
    """

    def __init__(
        self, identities: Identities, limits: ConnectionLimits, idle_s: float, metrics: GatewayMetrics
    ) -> None:
        self._identities = identities
        self._limits = limits
        self._idle_s = idle_s
        self._metrics = metrics
        self._revision = identities.revision
        self._open: set[OpenStream] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.contextmanager
    def opened(self, caller: Caller, role: Role, received: Callable[[], int] | None = None) -> Iterator[OpenStream]:
        """Lists the calling task's stream as open while the block runs.

        Args:
            caller: the fleet that opened it.
            role: the role that this fleet must keep.
            received: returns how many messages were received so far; None for a stream that only sends.

        Raises:
            ExhaustedError: too many streams are open.
        """
        self._limits.open(caller.fleet)
        self._metrics.stream(caller.fleet, 1)
        stream = OpenStream(caller, role, received)
        self._open.add(stream)
        self._empty.clear()
        try:
            yield stream
        finally:
            self._limits.close(caller.fleet)
            self._metrics.stream(caller.fleet, -1)
            self._open.discard(stream)
            if not self._open:
                self._empty.set()

    def end_all(self, code: grpc.StatusCode, text: str) -> None:
        """Asks every stream to end with this status."""
        for stream in self._open:
            stream.end(code, text)

    def by_fleet(self) -> Counter[str]:
        """Counts the open streams of each fleet that has one."""
        return Counter(stream.caller.fleet for stream in self._open)

    async def wait_until_empty(self) -> None:
        """Waits until no stream is open."""
        await self._empty.wait()

    async def run(self) -> None:
        """Checks every stream twice a second until it is cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Checks every stream once, and ends those that must not stay open. ``now``: monotonic seconds."""
        self._identities.reload()
        # By number: a call that came first may have noticed the new file already.
        changed = self._identities.revision != self._revision
        self._revision = self._identities.revision
        for stream in self._open:
            if changed:
                self._require_valid(stream)
            if stream.idle_s(now) > self._idle_s:
                stream.end(grpc.StatusCode.UNAVAILABLE, f"idle: nothing was sent for {self._idle_s:g} s; connect again")
            if stream.overdue(now) and stream.task is not None:
                stream.task.cancel()

    def _require_valid(self, stream: OpenStream) -> None:
        """Ends the stream if its caller's credentials no longer give its fleet the stream's role."""
        try:
            caller = self._identities.caller(stream.caller.credentials)
        except UnauthenticatedError:
            stream.end(grpc.StatusCode.UNAUTHENTICATED, "these credentials have been revoked")
            return
        if caller.fleet != stream.caller.fleet:
            stream.end(grpc.StatusCode.UNAUTHENTICATED, "these credentials now belong to another fleet")
        elif stream.role not in caller.roles:
            stream.end(grpc.StatusCode.PERMISSION_DENIED, f"the role {stream.role!r} has been withdrawn")
