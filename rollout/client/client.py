"""The client that submits groups, asks for leases and follows policies, over whatever the network does."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from leeway.v1 import rollout_pb2
from rollout.client.backoff import Backoff
from rollout.client.credentials import Credentials, Presented
from rollout.client.endpoints import Endpoints
from rollout.client.errors import AuthError
from rollout.client.submit_stream import SubmitStream
from rollout.client.tracing import SubmitTracing

_log = logging.getLogger(__name__)

_AUTH = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_FINISHED = "run_finished"  # the reason of RETRY acks when the run has made all its steps
_WATCH_S = 300.0  # a watch is reopened after this long: a peer that vanished silently is noticed in no other way


class SubmitClient:
    """A fleet's connection to a gateway. Survives gateway restarts and network cuts; create it inside a running event loop.

    Args:
        address: host:port; several, separated by commas, are gateways of one run, of which one is used at a time.
        credentials: the fleet's bearer token; or Credentials, for TLS, with a client certificate or a token or both, and for
            files that are read again when they are replaced.
        worker: names this process within its fleet, for operators; at most 64 bytes.
        in_flight: largest number of groups submitted and not yet acknowledged; ``submit`` waits while it is reached.
        max_message_bytes: largest message in either direction; larger groups are rejected here.
        timeout_s: limit of one call that is no stream. A submit stream that owes acks and gives none for three times as long
            is reopened.

    Attributes:
        retried: RETRY acks obeyed so far.
        finished: whether the gateway has said that the run has made all its steps and takes no more groups.

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
        given = Credentials(token=credentials) if isinstance(credentials, str) else credentials
        self.retried = 0
        self.finished = False
        self._endpoints = Endpoints(address, given, max_message_bytes)
        self._worker = worker
        self._slots = asyncio.Semaphore(in_flight)
        self._max_message_bytes = max_message_bytes
        self._timeout_s = timeout_s
        self._tracing = SubmitTracing()
        self._stream = SubmitStream(self._endpoints, max_message_bytes, ack_timeout_s=3 * timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def follow(self, tracing: SubmitTracing) -> None:
        """Opens a span "submit" for every sampled group from here on; see runtime.traces."""
        self._tracing = tracing

    @property
    def unacked(self) -> int:
        """Groups submitted and not acknowledged yet, those in retry delays excepted."""
        return self._stream.unacked

    @property
    def reconnected(self) -> int:
        """Submit streams opened after the first."""
        return max(0, self._stream.opened - 1)

    async def submit(self, group: rollout_pb2.Group, lease_id: str = "") -> rollout_pb2.Ack:
        """Delivers a group, however long that takes, and returns its final ack: ACCEPTED, DUPLICATE or REJECTED.

        An ack RETRY is obeyed here: the group is sent again after the gateway's delay plus jitter. Only the one of a run that
        has finished is returned (reason "run_finished"): nobody waits for the group any more. Cancelling leaves unknown
        whether the group was accepted; submitting it again with the same id is safe.

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
        async with self._slots:
            while True:
                ack = await self._stream.send(group.group_id, payload, lease_id)
                if ack.outcome != rollout_pb2.OUTCOME_RETRY:
                    return ack
                if ack.reason == _FINISHED:
                    self.finished = True
                    return ack
                self.retried += 1
                await asyncio.sleep(ack.retry_after_ms / 1000 * random.uniform(1.0, 1.5))

    async def lease(
        self, groups: int, running_version: int | None = None, returned: Sequence[str] = ()
    ) -> rollout_pb2.LeaseResponse:
        """Asks how many groups to generate now. The grant may be smaller, or 0 with ``retry_after_ms``.

        Args:
            groups: how many are wanted, at least 1.
            running_version: the version that the engines run; None before the first refit.
            returned: ids of leases that will not be used any further.

        Raises:
            AuthError: the credentials are refused.
        """
        request = rollout_pb2.LeaseRequest(
            groups=groups, worker=self._worker, running_version=running_version, returned_lease_ids=returned
        )
        return await self._unary("Lease", request)

    async def renew(self, lease_ids: Sequence[str], running_version: int | None = None) -> rollout_pb2.LeaseResponse:
        """Lets leases whose groups are still being made hold for another ``expires_in_ms``; see also LeaseKeeper.

        Args:
            lease_ids: the leases, at most 1024.
            running_version: the version that the engines run; None before the first refit.

        Returns:
            The answer, whose ``lost_lease_ids`` are those that could not be renewed.

        Raises:
            AuthError: the credentials are refused.
        """
        request = rollout_pb2.LeaseRequest(
            worker=self._worker, running_version=running_version, held_lease_ids=lease_ids
        )
        return await self._unary("Lease", request)

    async def give_back(self, lease_ids: Sequence[str]) -> None:
        """Gives leases back whose groups will not be made, and asks for no others.

        Args:
            lease_ids: the leases, at most 1024.

        Raises:
            AuthError: the credentials are refused.
        """
        await self._unary("Lease", rollout_pb2.LeaseRequest(worker=self._worker, returned_lease_ids=lease_ids))

    async def report_fetching(self, version: int, running_version: int | None = None) -> rollout_pb2.LeaseResponse:
        """Says that a version is being downloaded, so that it is kept; asks for no groups. Repeat it every few minutes.

        Args:
            version: the version that is being downloaded.
            running_version: the version that the engines run; None before the first refit.

        Raises:
            AuthError: the credentials are refused.
        """
        request = rollout_pb2.LeaseRequest(
            worker=self._worker, running_version=running_version, fetching_version=version
        )
        return await self._unary("Lease", request)

    async def report_evaluation(self, evaluation: rollout_pb2.Evaluation) -> None:
        """Records what a version is worth; needs the role evaluate. Recorded once per version, name and sampling.

        Args:
            evaluation: of a version that the run has published; all its tokens are of that version.

        Raises:
            AuthError: the credentials are refused, or have not the role.
            grpc.aio.AioRpcError: INVALID_ARGUMENT: the evaluation is not as the contract says.
        """
        await self._unary("ReportEvaluation", rollout_pb2.ReportEvaluationRequest(evaluation=evaluation))

    async def describe_run(self) -> rollout_pb2.DescribeRunResponse:
        """Reads what a fleet has to know of the run: sizes, ranges, limits, what its owner wants of sampling.

        Ask before anything is generated, and again after the gateway may have been started with other settings.

        Raises:
            AuthError: the credentials are refused.
        """
        return await self._unary("DescribeRun", rollout_pb2.DescribeRunRequest())

    async def get_ledger(self, fleet: str = "") -> rollout_pb2.Ledger:
        """Reads a fleet's ledger: how many of its groups were received, and what became of them.

        Args:
            fleet: "": the caller's own; another one needs the role operate.

        Raises:
            AuthError: the credentials are refused.
        """
        return (await self._unary("GetLedger", rollout_pb2.GetLedgerRequest(fleet=fleet))).ledger

    async def watch_policy(self, known_version: int | None = None) -> AsyncGenerator[rollout_pb2.Policy, None]:
        """Yields the newest policy at once and then each newer one, over reconnects, until the run has finished.

        Versions only increase: none is yielded twice. When it ends, the run has made all its steps: no lease is granted and
        no group is taken any more, and a fleet has nothing left to do.

        Args:
            known_version: the version the caller has already; only newer ones are yielded.

        Raises:
            AuthError: the credentials are refused.
        """
        backoff = Backoff(0.1, 5.0)
        while True:
            request = rollout_pb2.WatchPolicyRequest(known_version=known_version)
            stub, presented = self._endpoints.stub, self._endpoints.presented
            call = stub.WatchPolicy(request, metadata=presented.metadata, timeout=_WATCH_S)
            try:
                async for response in call:
                    backoff.reset()
                    policy = response.policy
                    if response.HasField("policy") and (known_version is None or policy.version > known_version):
                        known_version = policy.version
                        yield policy
                    if response.finished:
                        self.finished = True
                        return
            except grpc.aio.AioRpcError as error:
                self._require_auth(error, presented)
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    backoff.reset()
                else:
                    self._endpoints.move_on(stub)
                    _warn("policy watch broke", error)
            finally:
                call.cancel()
            await backoff.wait()

    async def close(self) -> None:
        """Cancels the submits that still wait for their acks, and closes the connections."""
        await self._stream.close()
        await self._endpoints.close()

    async def _unary(self, method: str, request: Any) -> Any:
        """Calls until there is an answer. Only for methods that may be repeated: a lease whose reply is lost expires."""
        backoff = Backoff(0.1, 5.0)
        while True:
            stub, presented = self._endpoints.stub, self._endpoints.presented
            try:
                return await getattr(stub, method)(request, metadata=presented.metadata, timeout=self._timeout_s)
            except grpc.aio.AioRpcError as error:
                self._require_auth(error, presented)
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                    raise
                delay_s = _retry_after_s(error)
                if delay_s is None:
                    self._endpoints.move_on(stub)
                    _warn(f"call {method} failed", error)
            await asyncio.sleep(max(backoff.delay(), (delay_s or 0.0) * random.uniform(1.0, 1.5)))

    def _require_auth(self, error: grpc.aio.AioRpcError, presented: Presented) -> None:
        """Raises AuthError if the credentials were refused, unless their files hold others by now: those are tried."""
        if error.code() in _AUTH and self._endpoints.presented == presented:
            raise AuthError(f"the gateway refuses the credentials: {error.details()}") from error


def _warn(event: str, error: grpc.aio.AioRpcError) -> None:
    _log.warning("%s: %s: %s", event, error.code().name, error.details())


def _retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds to wait where the gateway refused because of a limit; None when the call failed for another reason."""
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdecimal():
            return int(value) / 1000
    return None
