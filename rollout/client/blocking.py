"""The client for programs without an event loop: the calls of SubmitClient, each of which waits for its result.

A whole fleet:

    from leeway.v1 import rollout_pb2
    from rollout.client import BlockingSubmitClient, encode_ids, new_group_id

    def fleet(address, token, engine):
        with BlockingSubmitClient(address, token) as client:
            run = client.describe_run()                                # vocabulary, group size, limits
            while (policy := client.newest_policy()) is not None:      # None: the run has finished
                if policy.version != engine.version:
                    engine.load(policy)                                # policy.uri: weights and their manifest
                lease = client.lease(groups=4, running_version=engine.version)
                if not lease.groups:                                   # the learner has enough for now
                    client.wait(lease.retry_after_ms / 1000)
                    continue
                with client.holding(lease):                            # renewed, however long the groups take
                    for _ in range(lease.groups):
                        client.submit(make_group(engine, run), lease.lease_id)

    def make_group(engine, run):
        name, prompt = engine.prompt()
        responses = []
        for _ in range(max(2, run.min_group_size)):
            ids, reward = engine.sample(prompt)                        # yours: token ids, and what they are worth
            span = rollout_pb2.Span(version=engine.version, start=0, end=len(ids))
            responses.append(
                rollout_pb2.Response(
                    tokens=encode_ids(ids), reward=reward, spans=[span], finish_reason=rollout_pb2.FINISH_REASON_STOP
                )
            )
        return rollout_pb2.Group(
            group_id=new_group_id(), prompt_id=name, prompt_tokens=encode_ids(prompt), task="mine", temperature=1.0,
            responses=responses,
        )
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, Self, TypeVar

from leeway.v1 import rollout_pb2
from rollout.client.client import SubmitClient
from rollout.client.credentials import Credentials
from rollout.client.errors import ClientClosedError
from rollout.client.lease_keeper import LeaseKeeper
from rollout.client.loop_thread import LoopThread

_T = TypeVar("_T")


class BlockingSubmitClient:
    """A fleet's connection to a gateway for programs without asyncio. Any number of threads may use it at once.

    A call that waits when the client is closed, by another thread or by Ctrl-C, ends. One submit waits for one ack: submit
    from several threads where the network is slow.

    Args:
        address: host:port; several, separated by commas, are gateways of one run, of which one is used at a time.
        credentials: the fleet's bearer token; or Credentials, for TLS, with a client certificate or a token or both.
        worker: names this process within its fleet, for operators; at most 64 bytes.
        wait_s: limit of each call in seconds, its retries included; None: as long as it takes, as a fleet that outlives its
            gateways wants it.
        options: ``in_flight``, ``max_message_bytes`` and ``timeout_s`` of SubmitClient.

    Raises:
        SettingsError: the address is malformed, there are no credentials, or a TLS file cannot be read.
    """

    def __init__(
        self,
        address: str,
        credentials: str | Credentials,
        worker: str = "",
        *,
        wait_s: float | None = None,
        **options: Any,
    ) -> None:
        self._wait_s = wait_s
        self._thread = LoopThread("leeway-client")
        try:
            self._inside = self._thread.run(_inside(address, credentials, worker, options))
        except BaseException:
            self._thread.close()
            raise
        self._thread.at_end(self._inside.client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def retried(self) -> int:
        """RETRY acks obeyed so far."""
        return self._inside.client.retried

    @property
    def finished(self) -> bool:
        """Whether the gateway has said that the run has made all its steps and takes no more groups."""
        return self._inside.client.finished

    @property
    def unacked(self) -> int:
        """Groups submitted and not acknowledged yet, those in retry delays excepted."""
        return self._inside.client.unacked

    @property
    def reconnected(self) -> int:
        """Submit streams opened after the first."""
        return self._inside.client.reconnected

    def submit(self, group: rollout_pb2.Group, lease_id: str = "") -> rollout_pb2.Ack:
        """Delivers a group and returns its final ack: ACCEPTED, DUPLICATE or REJECTED.

        An ack RETRY is obeyed here, but for the one with reason "run_finished", which is returned.

        Raises:
            AuthError: the credentials are refused.
            TimeoutError: ``wait_s`` is over; the group may be submitted again with the same id.
            ClientClosedError: the client was closed.
        """
        return self._call(self._inside.client.submit(group, lease_id))

    def lease(
        self, groups: int, running_version: int | None = None, returned: Sequence[str] = ()
    ) -> rollout_pb2.LeaseResponse:
        """Asks how many groups to generate now. The grant may be smaller, or 0 with ``retry_after_ms``; see SubmitClient.

        Raises:
            AuthError: the credentials are refused.
            TimeoutError: ``wait_s`` is over.
            ClientClosedError: the client was closed.
        """
        self._inside.running_version = running_version
        return self._call(self._inside.client.lease(groups, running_version, returned))

    def renew(self, lease_ids: Sequence[str], running_version: int | None = None) -> rollout_pb2.LeaseResponse:
        """Lets leases whose groups are still being made hold on; ``holding`` does it by itself. Raises as ``lease`` does."""
        return self._call(self._inside.client.renew(lease_ids, running_version))

    def give_back(self, lease_ids: Sequence[str]) -> None:
        """Gives leases back whose groups will not be made, and asks for no others. Raises as ``lease`` does."""
        self._call(self._inside.client.give_back(lease_ids))

    def report_fetching(self, version: int, running_version: int | None = None) -> rollout_pb2.LeaseResponse:
        """Says that a version is being downloaded, so that it is kept. Raises as ``lease`` does."""
        return self._call(self._inside.client.report_fetching(version, running_version))

    def report_evaluation(self, evaluation: rollout_pb2.Evaluation) -> None:
        """Records what a version is worth; needs the role evaluate. Raises as ``lease`` does, and as SubmitClient's does."""
        self._call(self._inside.client.report_evaluation(evaluation))

    def describe_run(self) -> rollout_pb2.DescribeRunResponse:
        """Reads what a fleet has to know of the run: sizes, ranges, limits. Raises as ``lease`` does."""
        return self._call(self._inside.client.describe_run())

    def get_ledger(self, fleet: str = "") -> rollout_pb2.Ledger:
        """Reads a fleet's ledger, by default the caller's own. Raises as ``lease`` does."""
        return self._call(self._inside.client.get_ledger(fleet))

    def newest_policy(self) -> rollout_pb2.Policy | None:
        """Returns the newest published policy, once there is one; None when the run has finished.

        The gateway is watched from the first call on, so that further calls answer at once.

        Raises:
            AuthError: the credentials are refused.
            TimeoutError: nothing was published in ``wait_s``.
            ClientClosedError: the client was closed.
        """
        return self._call(self._inside.newest_policy())

    def watch_policy(self, known_version: int | None = None) -> Iterator[rollout_pb2.Policy]:
        """Yields the newest policy and then each newer one, waiting for it as long as it takes, until the run has finished.

        Raises:
            AuthError: the credentials are refused.
            ClientClosedError: the client was closed.
        """
        watching = self._inside.client.watch_policy(known_version)
        try:
            while (policy := self._thread.run(_next(watching))) is not None:
                yield policy
        finally:
            with contextlib.suppress(ClientClosedError):  # which has ended the watch
                self._thread.run(_ended(watching))

    @contextlib.contextmanager
    def holding(self, lease: rollout_pb2.LeaseResponse) -> Iterator[None]:
        """Keeps a lease while the block makes its groups, however long that takes.

        Raises:
            ClientClosedError: the client was closed before the block.
        """
        self._thread.run(self._inside.hold(lease))
        try:
            yield
        finally:
            with contextlib.suppress(ClientClosedError):
                self._thread.run(self._inside.release(lease.lease_id))

    def wait(self, seconds: float) -> None:
        """Waits; a close of the client, or Ctrl-C, ends it. Raises ClientClosedError."""
        self._thread.run(asyncio.sleep(seconds))

    def close(self) -> None:
        """Ends the calls of all threads and closes the connections, within 10 s. A second call does nothing."""
        self._thread.close()

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._thread.run(coroutine, self._wait_s)


class _Inside:
    """What lives on the event loop of a blocking client: its connection, held leases, and the watch of policies."""

    def __init__(self, client: SubmitClient) -> None:
        self.client = client
        self.running_version: int | None = None
        self._keeper = LeaseKeeper(client, lambda: self.running_version)
        self._keeping: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._policy: rollout_pb2.Policy | None = None
        self._first = asyncio.Event()

    async def hold(self, lease: rollout_pb2.LeaseResponse) -> None:
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keeper.run())
        self._keeper.hold(lease)

    async def release(self, lease_id: str) -> None:
        self._keeper.release(lease_id)

    async def newest_policy(self) -> rollout_pb2.Policy | None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._follow())
        await self._first.wait()
        if self._watch.done():
            self._watch.result()  # raises what ended it
            return None
        return self._policy

    async def _follow(self) -> None:
        try:
            async for policy in self.client.watch_policy():
                self._policy = policy
                self._first.set()
        finally:
            self._first.set()


async def _inside(address: str, credentials: str | Credentials, worker: str, options: dict[str, Any]) -> _Inside:
    return _Inside(SubmitClient(address, credentials, worker, **options))


async def _next(watching: AsyncGenerator[rollout_pb2.Policy, None]) -> rollout_pb2.Policy | None:
    return await anext(watching, None)


async def _ended(watching: AsyncGenerator[rollout_pb2.Policy, None]) -> None:
    await watching.aclose()
