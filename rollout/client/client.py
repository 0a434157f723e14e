"""The public submit SDK: everything a fleet needs to talk to a gateway. A whole fleet in a few lines:

    async with SubmitClient("gateway:50051", token) as client:
        async for policy in client.watch_policy():
            engine.load(policy.uri)                                   # weights, verified by the manifest there
            lease = await client.lease(groups=8)
            for prompt in my_prompts(lease.groups):
                tokens, rewards = engine.sample(prompt, responses=8)  # yours
                group = rollout_pb2.Group(
                    group_id=new_group_id(), prompt_id=prompt.name, prompt_tokens=encode_ids(prompt.ids), task="mine",
                    temperature=1.0,
                    responses=[
                        rollout_pb2.Response(
                            tokens=encode_ids(ids), reward=reward, finish_reason=rollout_pb2.FINISH_REASON_STOP,
                            spans=[rollout_pb2.Span(version=policy.version, start=0, end=len(ids))],
                        )
                        for ids, reward in zip(tokens, rewards)
                    ],
                )
                ack = await client.submit(group, lease.lease_id)      # ACCEPTED, DUPLICATE or REJECTED

Programs in other languages need only proto/leeway/v1/rollout.proto, which is the specification.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Self

import grpc
import grpc.aio
import structlog

from leeway.v1 import rollout_pb2
from rollout.client.backoff import Backoff
from rollout.client.endpoints import Credentials, Endpoints
from rollout.client.ids import new_group_id
from rollout.client.submit_stream import AuthError, SubmitStream
from rollout.client.wire import encode_ids
from rollout.telemetry.tracing import WorkerTracing

__all__ = ["AuthError", "Credentials", "SubmitClient", "encode_ids", "new_group_id"]

_AUTH = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_WATCH_S = 300.0  # a watch is opened anew after so long: the one way to notice a peer that vanished without a word


class SubmitClient:
    """A fleet's connection to a gateway. Survives gateway restarts and network cuts; make it inside a running event loop.

    Args:
        address: host:port; several with commas between are gateways of one run, of which one is used at a time.
        credentials: the fleet's bearer token; or Credentials, for TLS, with a client certificate or a token or both.
        worker: names this process within its fleet, for operators; at most 64 bytes.
        in_flight: most groups submitted and not yet acknowledged; ``submit`` waits above it.
        max_message_bytes: largest message either way; larger groups are rejected here.
        timeout_s: limit of one lease or ledger call, and of silence on a stream that owes acks.

    Attributes:
        retried: RETRY acks obeyed so far.

    Raises:
        SettingsError: the address is malformed, there are no credentials, or a TLS file cannot be read.
    """

    def __init__(
        self,
        address: str,
        credentials: str | Credentials,
        worker: str = "",
        *,
        in_flight: int = 64,
        max_message_bytes: int = 16 << 20,
        timeout_s: float = 10.0,
    ) -> None:
        shown = Credentials(token=credentials) if isinstance(credentials, str) else credentials
        self.retried = 0
        self._endpoints = Endpoints(address, shown, max_message_bytes)
        self._metadata = shown.metadata
        self._worker = worker
        self._room = asyncio.Semaphore(in_flight)
        self._max_message_bytes = max_message_bytes
        self._timeout_s = timeout_s
        self._tracing = WorkerTracing()
        self._stream = SubmitStream(self._endpoints, self._metadata, max_message_bytes, ack_timeout_s=3 * timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def follow(self, tracing: WorkerTracing) -> None:
        """From here on, some of the groups that are submitted are followed; see runtime.traces."""
        self._tracing = tracing

    @property
    def unacked(self) -> int:
        """Groups sent and not acknowledged yet."""
        return self._stream.unacked

    @property
    def reconnected(self) -> int:
        """Submit streams opened after the first."""
        return max(0, self._stream.opened - 1)

    async def submit(self, group: rollout_pb2.Group, lease_id: str = "") -> rollout_pb2.Ack:
        """Delivers a group, however long that takes, and returns its final ack: ACCEPTED, DUPLICATE or REJECTED.

        RETRY is obeyed here: the gateway's delay, plus jitter. Cancelling leaves it unknown whether the group was accepted;
        submitting the same group (same id) again is safe.

        Raises:
            AuthError: the credentials are refused.
        """
        span = self._tracing.submitting(group)
        ack = await self._deliver(group, lease_id)
        if span is not None:
            span.end(outcome=rollout_pb2.Outcome.Name(ack.outcome), reason=ack.reason)
        return ack

    async def _deliver(self, group: rollout_pb2.Group, lease_id: str) -> rollout_pb2.Ack:
        payload = group.SerializeToString()
        if len(payload) + 256 > self._max_message_bytes:
            value = f"{len(payload)} bytes, allowed {self._max_message_bytes}"
            return rollout_pb2.Ack(
                group_id=group.group_id,
                outcome=rollout_pb2.OUTCOME_REJECTED,
                reason="message_too_large",
                field="group",
                value=value,
            )
        async with self._room:
            while True:
                ack = await self._stream.send(group.group_id, payload, lease_id)
                if ack.outcome != rollout_pb2.OUTCOME_RETRY:
                    return ack
                self.retried += 1
                await asyncio.sleep(ack.retry_after_ms / 1000 * random.uniform(1.0, 1.5))

    async def lease(
        self, groups: int, running_version: int | None = None, returned: Sequence[str] = ()
    ) -> rollout_pb2.LeaseResponse:
        """Asks how many groups to generate now. The grant may be smaller, or 0 with ``retry_after_ms``.

        Args:
            groups: how many are wanted, at least 1.
            running_version: what the engines run; None before the first refit.
            returned: ids of leases whose unused promises are given back.

        Raises:
            AuthError: the credentials are refused.
        """
        request = rollout_pb2.LeaseRequest(
            groups=groups, worker=self._worker, running_version=running_version, returned_lease_ids=returned
        )
        return await self._unary("Lease", request)

    async def get_ledger(self, fleet: str = "") -> rollout_pb2.Ledger:
        """The fleet's own account; with the role operate any fleet's. Raises AuthError."""
        return (await self._unary("GetLedger", rollout_pb2.GetLedgerRequest(fleet=fleet))).ledger

    async def watch_policy(self, known_version: int | None = None) -> AsyncGenerator[rollout_pb2.Policy, None]:
        """The newest policy at once, then each newer one, for ever: over reconnects, never back, never twice.

        Raises:
            AuthError: the credentials are refused.
        """
        backoff = Backoff(0.1, 5.0)
        while True:
            request = rollout_pb2.WatchPolicyRequest(known_version=known_version)
            stub = self._endpoints.stub
            call = stub.WatchPolicy(request, metadata=self._metadata, timeout=_WATCH_S)
            try:
                async for response in call:
                    backoff.reset()
                    policy = response.policy
                    if known_version is None or policy.version > known_version:
                        known_version = policy.version
                        yield policy
            except grpc.aio.AioRpcError as error:
                _require_auth(error)
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    backoff.reset()
                else:
                    self._endpoints.move_on(stub)
                    _log(error, "policy watch broke")
            finally:
                call.cancel()
            await backoff.wait()

    async def close(self) -> None:
        """Drops what is not acknowledged and closes the connection."""
        await self._stream.close()
        await self._endpoints.close()

    async def _unary(self, method: str, request: Any) -> Any:
        """Calls until there is an answer. Only safe for what may be asked twice: a lost lease expires by itself."""
        backoff = Backoff(0.1, 5.0)
        while True:
            stub = self._endpoints.stub
            try:
                return await getattr(stub, method)(request, metadata=self._metadata, timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                _require_auth(error)
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                    raise
                delay_s = _retry_after_s(error)
                if delay_s is None:
                    self._endpoints.move_on(stub)
                    _log(error, "call failed")
            await asyncio.sleep(max(backoff.delay(), (delay_s or 0.0) * random.uniform(1.0, 1.5)))


def _require_auth(error: grpc.aio.AioRpcError) -> None:
    if error.code() in _AUTH:
        raise AuthError(f"the gateway refuses the credentials: {error.details()}") from error


def _log(error: grpc.aio.AioRpcError, what: str) -> None:
    structlog.get_logger().warning(what, code=error.code().name, details=error.details())


def _retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds to wait after a limit of the gateway; None when the call failed for another reason."""
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdecimal():
            return int(value) / 1000
    return None
