"""A fleet of few groups that tries a gateway: what it must take, and what it must refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np

from leeway.v1 import rollout_pb2, rollout_pb2_grpc
from runtime.group_ids import new_group_id

_CALL_S = 30.0
_ROUTING = 4  # revision of the contract that has records of experts
_NO_LAYER = 1 << 20  # that no model has
_COPIES = 2  # of a message: above the limit, even if the limit is told wrongly by a little


class ScriptedFleet:
    """A connection to the gateway under test. Its groups have no contrast: they move no weight.

    Args:
        address: host:port.
        token: the fleet's bearer token; None sends none.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self.stub = rollout_pb2_grpc.RolloutServiceStub(self._channel)
        self.metadata = [] if token is None else [("authorization", f"Bearer {token}")]

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def call(self, method: str, request: Any) -> Any:
        """Makes a unary call. Raises AioRpcError."""
        return await getattr(self.stub, method)(request, metadata=self.metadata, timeout=_CALL_S)

    async def code_of(self, method: str, request: Any) -> grpc.StatusCode:
        """Makes a unary call and returns its status."""
        try:
            await self.call(method, request)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def newest(self, wait_s: float) -> rollout_pb2.Policy | None:
        """Returns the version that WatchPolicy sends first; None if none comes in time."""
        call = self.stub.WatchPolicy(rollout_pb2.WatchPolicyRequest(), metadata=self.metadata)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                async for response in call:
                    if response.HasField("policy"):
                        call.cancel()
                        return response.policy
        call.cancel()
        return None

    async def submit(
        self, requests: Sequence[rollout_pb2.SubmitRequest], compression: grpc.Compression | None = None
    ) -> tuple[list[rollout_pb2.Ack], grpc.aio.AioRpcError | None]:
        """Sends messages on one stream, half-closes it, and returns all acks and the call's error, if it failed."""
        call = self.stub.Submit(metadata=self.metadata, timeout=_CALL_S, compression=compression)
        acks: list[rollout_pb2.Ack] = []
        try:
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended already: reading says why
                for request in requests:
                    await call.write(request)
                await call.done_writing()
            async for response in call:
                acks += response.acks
        except grpc.aio.AioRpcError as error:
            return acks, error
        return acks, None


class GroupMaker:
    """Makes groups without contrast that obey the limits of a run.

    Args:
        run: the limits.
        version: the version that their spans name.
    """

    def __init__(self, run: rollout_pb2.DescribeRunResponse, version: int) -> None:
        self._run = run
        self._version = version

    def valid(self, **changes: Any) -> rollout_pb2.Group:
        """Makes a group that breaks no rule."""
        count = max(2, self._run.min_group_size)
        fields = {"group_id": new_group_id(), "prompt_id": "conformance", "task": "conformance"}
        responses = [self.response() for _ in range(count)]
        return rollout_pb2.Group(
            **{
                **fields,
                "prompt_tokens": self._ids(3),
                "responses": responses,
                "temperature": max(self._run.min_temperature, min(1.0, self._run.max_temperature)),
                **changes,
            }
        )

    def response(self, **changes: Any) -> rollout_pb2.Response:
        """Makes a response of one sequence, with the reward that every response of this maker has."""
        spans = [rollout_pb2.Span(version=self._version, start=0, end=4)]
        fields = {"tokens": self._ids(4), "spans": spans, "reward": self._reward}
        return rollout_pb2.Response(**{**fields, "finish_reason": rollout_pb2.FINISH_REASON_STOP, **changes})

    def segmented(self) -> rollout_pb2.Response:
        """Makes a response of two segments."""
        spans = [rollout_pb2.Span(version=self._version, start=1, end=4)]
        segment = rollout_pb2.Segment(context_tokens=self._ids(3), tokens=self._ids(4), spans=spans)
        return rollout_pb2.Response(
            reward=self._reward, finish_reason=rollout_pb2.FINISH_REASON_STOP, segments=[segment, segment]
        )

    def foreign_experts(self) -> rollout_pb2.Response | None:
        """Makes a response with a record of experts of another model; None where the run's contract has none."""
        if self._run.contract_revision < _ROUTING:
            return None
        layers = [*self._run.routing.layers, _NO_LAYER]
        record = rollout_pb2.RoutedExperts(layers=layers, top_k=1, experts=1, ids=bytes(len(layers)))
        return self.response(routed_experts=record)

    def unknown_token(self) -> bytes:
        """Returns a token id that is outside the vocabulary."""
        return np.array([self._run.vocab_size], dtype="<i4").tobytes()

    def too_large(self) -> rollout_pb2.Group:
        """Makes a group that is larger than a message may be."""
        return self.valid(metadata={"padding": "x" * (self._run.max_message_bytes * _COPIES)})

    @property
    def _reward(self) -> float:
        return max(self._run.min_reward, min(0.0, self._run.max_reward))

    def _ids(self, count: int) -> bytes:
        return (np.arange(count) % self._run.vocab_size).astype("<i4").tobytes()
