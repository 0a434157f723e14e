"""A synchronous session with Redis: scripts by name, patience with a server that restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
import structlog
from redis.exceptions import NoScriptError

from learner.queue.connect import translate, translated
from learner.queue.errors import UnavailableError
from learner.queue.scripts import script

T = TypeVar("T")
Call = tuple[Sequence[str], Sequence[Any]]  # keys, arguments


class RedisSession:
    """Runs scripts and reads; what it raises is QueueError or a subclass.

    Args:
        client: not connected yet; retries of its own switched off.
        outage_s: how long a server that does not answer is waited for.
    """

    def __init__(self, client: redis.Redis, outage_s: float) -> None:
        self.client = client
        self._outage_s = outage_s
        self._server = ""  # which life of which Redis we know
        self._restarted = False
        self._returning = threading.RLock()
        self._on_return: Callable[[], None] | None = None
        client.connection_pool.connection_kwargs["redis_connect_func"] = self._connected
        self._log = structlog.get_logger(process="learner")

    def on_return(self, action: Callable[[], None]) -> None:
        """``action`` runs first when Redis answers after a restart: it may have forgotten its last second."""
        self._on_return = action

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """One script that may safely be repeated: its reply, however often Redis had to be asked."""
        return self.with_retry(lambda: self.execute_once(name, [(keys, arguments)])[0])

    def execute_once(self, name: str, calls: Sequence[Call], read: Sequence[str] = ()) -> list[Any]:
        """The script for each of ``calls`` in one round trip, never repeated once it may have run.

        With ``read``, the values of those keys are read in the same round trip: the last element, a list.
        """
        code = script(name)
        with translated():
            replies = self._pipeline(code.sha, calls, read)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                # Redis has forgotten its scripts; none of these ran.
                self.client.script_load(code.text)
                again = self._pipeline(code.sha, [calls[i] for i in unknown])
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise translate(reply) from reply
        return replies

    def with_retry(self, action: Callable[[], T]) -> T:
        """``action()``, again and again while Redis is unavailable, up to the outage limit."""
        deadline = time.monotonic() + self._outage_s
        pause = 0.05
        while True:
            try:
                with translated():
                    self._return()
                    return action()
            except UnavailableError as error:
                if time.monotonic() + pause > deadline:
                    raise
                self._log.warning("waiting for redis", error=str(error))
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def _connected(self, connection: Any) -> None:
        """Runs in each new connection. The first one to another life of Redis ends here, before any command is sent."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        lines = connection.read_response().decode().splitlines()
        server = next(line for line in lines if line.startswith("run_id:"))
        known, self._server = self._server, server
        if known not in ("", server):
            self._restarted = True
            raise redis.ConnectionError("it has restarted")

    def _return(self) -> None:
        # Publication has a thread of its own: nobody goes on before what was forgotten is there again.
        with self._returning:
            if self._restarted and self._on_return is not None:
                self._restarted = False
                try:
                    self._on_return()
                except UnavailableError:
                    self._restarted = True
                    raise

    def _pipeline(self, sha: str, calls: Sequence[Call], read: Sequence[str] = ()) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.evalsha(sha, len(keys), *keys, *arguments)
            if read:
                pipeline.mget(read)
            return pipeline.execute(raise_on_error=False)
