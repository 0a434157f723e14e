"""A gateway as an operator's client sees it: a gRPC server whose replies a test writes, and that keeps the requests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from leeway.v1 import operator_pb2 as op
from leeway.v1 import operator_pb2_grpc, rollout_pb2, rollout_pb2_grpc

TOKEN = "operator-secret"
STREAMS = ("ListQuarantine", "ListGroups")


@dataclass
class ScriptedOperator:
    """The servicers: each call takes the next reply of its name; the last one is given again and again.

    Attributes:
        replies: call -> replies: messages, lists of messages for a stream, or (status, details) for a failure.
        requests: call and request, in order.
        address: where it listens.
    """

    replies: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    address: str = ""

    def asked(self, call: str) -> list[Any]:
        """The requests of a call."""
        return [request for name, request in self.requests if name == call]

    def answer(self, call: str, request: Any, context: grpc.ServicerContext) -> Any:
        if ("authorization", f"Bearer {TOKEN}") not in [tuple(pair) for pair in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")
        self.requests.append((call, request))
        script = self.replies.get(call)
        if not script:
            context.abort(grpc.StatusCode.INTERNAL, f"the test has no reply to {call}")
        reply = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(reply, tuple):
            context.abort(*reply)
        return reply


@contextlib.contextmanager
def scripted_operator(
    credentials: grpc.ServerCredentials | None = None, operators: bool = True, **replies: Any
) -> Iterator[ScriptedOperator]:
    """Serves the replies on a free port of this machine.

    Args:
        credentials: TLS; None: plain text.
        operators: False: as a gateway without an operator's service.
        replies: call -> one reply, or a list of them; of a stream, one reply is a list.
    """
    script = ScriptedOperator()
    for call, given in replies.items():
        several = isinstance(given, list) and (call not in STREAMS or bool(given and isinstance(given[0], list)))
        script.replies[call] = given if several else [given]
    server = grpc.server(ThreadPoolExecutor(4))
    if operators:
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(
            _servicer(operator_pb2_grpc.OperatorServiceServicer, script, op.DESCRIPTOR), server
        )
    rollout_pb2_grpc.add_RolloutServiceServicer_to_server(
        _servicer(rollout_pb2_grpc.RolloutServiceServicer, script, rollout_pb2.DESCRIPTOR), server
    )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    script.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield script
    finally:
        server.stop(None).wait(10)


def _servicer(base: type[Any], script: ScriptedOperator, file: Any) -> Any:
    """A servicer of the one service in ``file``, whose every method is answered by the script."""
    methods = {}
    for service in file.services_by_name.values():
        for method in service.methods:
            methods[method.name] = _method(script, method.name, method.name in STREAMS)
    return type("Scripted", (base,), methods)()


def _method(script: ScriptedOperator, call: str, streams: bool) -> Any:
    if streams:

        def stream(_: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield from script.answer(call, request, context)

        return stream

    def unary(_: Any, request: Any, context: grpc.ServicerContext) -> Any:
        return script.answer(call, request, context)

    return unary
