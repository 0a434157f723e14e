"""Registers the gateway's calls with requests left as bytes, so that strangers cannot make the gateway parse any."""

from __future__ import annotations

from functools import partial

import grpc
import grpc.aio

from learner.gateway.operator_service import OperatorService
from learner.gateway.service import RolloutService
from leeway.v1 import operator_pb2, rollout_pb2


def add_to_server(service: RolloutService, server: grpc.aio.Server) -> None:
    """Makes the server answer the calls of leeway.v1.RolloutService by ``service``, which parses the requests itself."""
    methods = {
        "Submit": grpc.stream_stream_rpc_method_handler(
            service.Submit, response_serializer=rollout_pb2.SubmitResponse.SerializeToString
        ),
        "Lease": grpc.unary_unary_rpc_method_handler(
            service.Lease, response_serializer=rollout_pb2.LeaseResponse.SerializeToString
        ),
        "WatchPolicy": grpc.unary_stream_rpc_method_handler(
            service.WatchPolicy, response_serializer=rollout_pb2.WatchPolicyResponse.SerializeToString
        ),
        "DescribeRun": grpc.unary_unary_rpc_method_handler(
            service.DescribeRun, response_serializer=rollout_pb2.DescribeRunResponse.SerializeToString
        ),
        "GetLedger": grpc.unary_unary_rpc_method_handler(
            service.GetLedger, response_serializer=rollout_pb2.GetLedgerResponse.SerializeToString
        ),
        "ReportEvaluation": grpc.unary_unary_rpc_method_handler(
            service.ReportEvaluation, response_serializer=rollout_pb2.ReportEvaluationResponse.SerializeToString
        ),
        "ListLedgers": grpc.unary_unary_rpc_method_handler(
            service.ListLedgers, response_serializer=rollout_pb2.ListLedgersResponse.SerializeToString
        ),
    }
    name = rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))


def add_operator_to_server(service: OperatorService, server: grpc.aio.Server) -> None:
    """Makes the server answer the calls of leeway.v1.OperatorService by ``service``, which parses the requests itself."""
    described = operator_pb2.DESCRIPTOR.services_by_name["OperatorService"]
    methods: dict[str, grpc.RpcMethodHandler] = {}
    for name, method in described.methods_by_name.items():
        response = getattr(operator_pb2, method.output_type.name)
        if method.server_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, partial(service.list, name)
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, partial(service.answer, name)
        methods[name] = make(behaviour, response_serializer=response.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(described.full_name, methods),))
