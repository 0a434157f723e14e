"""The HTTP status endpoint of a process: /metrics for Prometheus, /healthz and /readyz for its supervisor.

It has threads of its own and reads only what the process keeps anyway: a scrape never waits for the process, and the
process never for a scrape.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from runtime.settings import SettingsError

Check = Callable[[], str | None]  # returns what is wrong, None when nothing is; called on any thread, must not block

_READ_S = 5.0  # a caller must send its request within this time
_POLL_S = 0.2  # the serving thread looks this often whether it should end
_MOST_CALLERS = 16  # connections at once; for one more, the one that has been silent for longest is closed


class Heartbeat:
    """Detects that something which must keep moving, such as an event loop, has stopped: it calls ``beat`` regularly.

    Args:
        what: its name in the complaint.
        limit_s: seconds without a beat that count as a fault. Before the first beat there is no fault: startup may be long.
    """

    def __init__(self, what: str, limit_s: float) -> None:
        self._what = what
        self._limit_s = limit_s
        self._last: float | None = None

    def beat(self) -> None:
        """Records a sign of life."""
        self._last = time.monotonic()

    def problem(self) -> str | None:
        """Returns a complaint when the last beat is too long ago, otherwise None; it is a ``Check``."""
        if self._last is None or (silent := time.monotonic() - self._last) <= self._limit_s:
            return None
        return f"{self._what}: nothing has moved for {silent:.0f} s (limit {self._limit_s:.0f} s)"

    async def beat_with_loop(self) -> None:
        """Beats once a second for as long as the running event loop turns; never returns."""
        while True:
            self.beat()
            await asyncio.sleep(1.0)


class Status:
    """A status endpoint that is being served.

    Attributes:
        address: host:port, with the port that was bound if 0 was asked for; "" if nothing listens.
    """

    def __init__(self, server: _Server | None) -> None:
        self._server = server
        self.address = ""
        if server is not None:
            host, port = server.server_address[:2]
            self.address = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    @classmethod
    def start(
        cls, listen: str | None, registry: CollectorRegistry, alive: Check, ready: Check, offset: int = 0
    ) -> Status:
        """Binds the address and serves on daemon threads.

        Args:
            listen: host:port; None serves nothing.
            registry: what /metrics shows; metrics of the process itself (memory, CPU, descriptors) are added to it.
            alive: decides /healthz: 200, or 503 with the complaint.
            ready: decides /readyz: 200, or 503 with the complaint.
            offset: added to the port.

        Raises:
            SettingsError: ``listen`` is no address, or cannot be bound.
        """
        if listen is None:
            return cls(None)
        host, port = _address(listen, offset)
        ProcessCollector(registry=registry)
        try:
            server = _Server(host, port, registry, {"/healthz": alive, "/readyz": ready})
        except OSError as error:
            where = f" (port {port}: + {offset})" if offset else ""
            raise SettingsError(
                f"status.listen = {listen}{where}: cannot be bound: {error.strerror}; stop the other process or set "
                "another address (leeway up: run.status_port)"
            ) from error
        threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="status", daemon=True).start()
        return cls(server)

    def close(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 256  # a caller that does not fit waits for a second, which is as long as some probes do
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, registry: CollectorRegistry, checks: dict[str, Check]) -> None:
        self.registry = registry
        self.checks = checks
        self._callers: dict[Any, None] = {}  # open connections, oldest first
        self._lock = threading.Lock()
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = found[0][0], found[0][4]
        super().__init__(address[:2], _Handler)  # pyright: ignore[reportArgumentType] - (host, port) of either family

    def process_request(self, request: Any, client_address: Any) -> None:
        # A probe sends its request at once and is answered in milliseconds: who has been here for longest says nothing.
        # Turning the newest away instead would let a few silent callers keep every probe out.
        with self._lock:
            if len(self._callers) >= _MOST_CALLERS:
                oldest = next(iter(self._callers))
                del self._callers[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread closes it
            self._callers[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._callers.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs errors of this process; a caller that has gone away is not worth a line."""
        if not isinstance(sys.exception(), OSError):
            structlog.get_logger().error("the status endpoint failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _READ_S
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept") or "")
            self._answer(200, encode(self.server.registry), content_type)
        elif path in self.server.checks:
            complaint = self.server.checks[path]()
            self._answer(503 if complaint else 200, f"{complaint or 'ok'}\n".encode())
        else:
            self._answer(404, b"there are /metrics, /healthz and /readyz\n")

    def _answer(self, code: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "leeway"

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: callers are probes."""


def _address(listen: str, offset: int) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) + offset > 65_535:
        raise SettingsError(f"status.listen = {listen!r}: expected host:port")
    # Port 0 lets the system choose; there is nothing to add to.
    return host.strip("[]"), int(port) + offset if int(port) else 0
