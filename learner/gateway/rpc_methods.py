"""Registers the calls of RolloutService with requests left as bytes, so that strangers cannot make the gateway parse any."""

from __future__ import annotations

import grpc
import grpc.aio

from learner.gateway.service import RolloutService
from leeway.v1 import rollout_pb2


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
