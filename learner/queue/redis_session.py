"""A synchronous session with Redis: runs scripts by name and waits for a server that restarts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import NoScriptError

from learner.queue.connect import translate, translated
from learner.queue.errors import HaltedError, QueueError, RefusedCredentialsError, StillAwayError, UnavailableError
from learner.queue.outage import Outage
from learner.queue.scripts import script

T = TypeVar("T")
Call = tuple[Sequence[str], Sequence[Any]]  # keys, arguments


class RedisSession:
    """Runs scripts and other commands. All methods raise QueueError or a subclass.

    Credentials that Redis refuses are an error at the start. Later they are waited for like a server that is away: a password
    is being rotated, and every attempt reads the password file again.

    Args:
        client: not connected yet; with its own retries switched off.
        outage_s: seconds to wait for a server that does not answer.
        clock: returns seconds.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        outage_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self._clock = clock
        self._sleep = sleep
        self._outage = Outage(outage_s, clock)
        self._patience = threading.local()  # of each thread: attribute seconds, if it is limited
        self._while_waiting: Callable[[], None] = lambda: None
        self._server = ""  # the "run_id:" line of the server of the last connection; a restart changes it
        self._restarted = False
        self._accepted = False  # whether Redis has ever accepted the credentials
        self._restarting = threading.RLock()
        self._on_restart: Callable[[], None] | None = None
        self._look: Callable[[bool], None] = lambda now: None
        client.connection_pool.connection_kwargs["redis_connect_func"] = self._connected

    def on_restart(self, action: Callable[[], None]) -> None:
        """Sets what to run first when Redis answers after a restart, which may have lost its last second of writes."""
        self._on_restart = action

    def before_each(self, look: Callable[[bool], None]) -> None:
        """Sets what is called before each action: it raises HaltedError while the queue stands still.

        Args:
            look: called with whether to look at once, because something is wrong; otherwise now and then is enough.
        """
        self._look = look

    def away_s(self) -> float | None:
        """Seconds for which Redis has not answered; None while it does."""
        return self._outage.lasts_s()

    def while_waiting(self, action: Callable[[], None]) -> None:
        """Sets what is called at least every few seconds by calls that wait for Redis, but for those in waiting_at_most."""
        self._while_waiting = action

    @contextlib.contextmanager
    def waiting_at_most(self, seconds: float) -> Iterator[None]:
        """Context in which calls of this thread raise StillAwayError after so long, if the outage may still last."""
        self._patience.seconds = seconds
        try:
            yield
        finally:
            del self._patience.seconds

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Runs one script that may safely be repeated, retrying while Redis is unavailable, and returns its reply."""
        return self.with_retry(lambda: self.execute_once(name, [(keys, arguments)])[0])

    def execute_once(self, name: str, calls: Sequence[Call], read: Sequence[str] = ()) -> list[Any]:
        """Runs a script once for each of ``calls``, in one round trip. Never repeats a call that may have taken effect.

        Args:
            name: of the script.
            calls: keys and arguments of each call.
            read: keys whose values are read in the same round trip.

        Returns:
            The reply to each call; with ``read``, then the list of its values.

        Raises:
            FencedError: a newer learner has started.
            UnavailableError: Redis did not answer; which calls took effect is unknown.
        """
        code = script(name)
        with translated():
            replies = self._pipeline(code.sha, calls, read)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                # A restart emptied Redis's script cache; none of these ran.
                self.client.script_load(code.text)
                again = self._pipeline(code.sha, [calls[i] for i in unknown])
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise translate(reply) from reply
        return replies

    def with_retry(self, action: Callable[[], T]) -> T:
        """Calls ``action`` until it succeeds, pausing in between, and returns its result.

        Raises:
            HaltedError: the queue stands still. In ``waiting_at_most`` it is waited for instead.
            UnavailableError: Redis is still unavailable when the session's limit is over.
            StillAwayError: the limit that ``waiting_at_most`` sets is over.
        """
        started, patience, pause = self._clock(), getattr(self._patience, "seconds", None), 0.05
        last_try = False
        while True:
            try:
                with self._translated():
                    self._prepare()
                    result = self._attempt(action)
            except HaltedError as error:
                if patience is None:
                    raise
                if self._clock() - started + pause > patience:
                    raise StillAwayError(str(error)) from error
                self._sleep(pause)
                pause = min(2 * pause, 1.0)
            except UnavailableError as error:
                if (too_long := self._outage.failed(error)) is not None:
                    if last_try:
                        raise too_long from error
                    last_try = True  # a Redis that has come back fails once more, to say that it has restarted
                elif patience is not None and self._clock() - started + pause > patience:
                    raise StillAwayError(str(error)) from error
                if patience is None:
                    self._while_waiting()
                self._sleep(pause)
                pause = min(2 * pause, 1.0)
            else:
                self._accepted = True
                self._outage.ended()
                return result

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except RefusedCredentialsError as error:
            if not self._accepted:
                raise
            raise UnavailableError(f"{error}; waiting for credentials that it accepts") from error

    def _connected(self, connection: Any) -> None:
        """Prepares each new connection. Refuses the first one after a restart, before any other command is sent on it."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        lines = connection.read_response().decode().splitlines()
        server = next(line for line in lines if line.startswith("run_id:"))
        known, self._server = self._server, server
        if known not in ("", server):
            self._restarted = True
            raise redis.ConnectionError("it has restarted")

    def _prepare(self) -> None:
        """Looks whether the queue stands still, and runs what a restart asks for, before the next action."""
        # Threads share the session: none may continue before the lost writes are there again.
        with self._restarting:
            restarted = self._restarted
            try:
                with self._translated():
                    self._look(restarted)
                    if restarted and self._on_restart is not None:
                        self._restarted = False
                        self._on_restart()
            except HaltedError:
                self._restarted = True  # other data may be there afterwards: what was written last is written again
                raise
            except UnavailableError:
                self._restarted |= restarted
                raise

    def _attempt(self, action: Callable[[], T]) -> T:
        """Calls ``action``. An error that other data may have caused, such as an epoch that is gone, may be a halt."""
        try:
            with self._translated():
                return action()
        except UnavailableError:
            raise
        except QueueError:
            with self._restarting:
                try:
                    self._look(True)
                except HaltedError:
                    self._restarted = True
                    raise
            raise

    def _pipeline(self, sha: str, calls: Sequence[Call], read: Sequence[str] = ()) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.evalsha(sha, len(keys), *keys, *arguments)
            if read:
                pipeline.mget(read)
            return pipeline.execute(raise_on_error=False)
