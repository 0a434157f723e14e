"""Composes one gateway process, and runs it from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import grpc.aio
import structlog
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from learner.config import GatewayConfig
from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.auth import Identities
from learner.gateway.batch_writer import BatchWriter
from learner.gateway.call_gate import CallGate
from learner.gateway.cancel_tasks import cancel_all
from learner.gateway.change_feed import ChangeFeed
from learner.gateway.file_descriptors import connections_possible
from learner.gateway.grpc_logging import RateLimitedHandler
from learner.gateway.health import GatewayHealth
from learner.gateway.identity_feed import IdentityFeed
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.operator_calls import OperatorParts, operator_service
from learner.gateway.operator_threads import OperatorThreads
from learner.gateway.recent_acks import RecentAcks
from learner.gateway.rpc_methods import add_operator_to_server, add_to_server
from learner.gateway.run_gauges import RunGauges
from learner.gateway.server_address import bind
from learner.gateway.service import RolloutService
from learner.gateway.submit_handler import SubmitHandler
from learner.gateway.validation import GroupRules
from learner.gateway.version_ages import VersionAges
from learner.gateway.version_feed import VersionFeed
from learner.queue import GatewayQueue, QueueError, UnavailableError
from leeway.v1 import operator_pb2, rollout_pb2
from runtime import traces
from runtime.settings import SettingsError
from runtime.status import Status

_SERVICE = rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
_OPERATOR_SERVICE = operator_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name
_CUT_S = 0.5  # for calls that do not end by themselves while the gateway drains
_WRAPPING = 1024  # bytes around a group that is as large as a message may be, in an answer to an operator
_PING_STRIKES = 2  # pings that come too early before a client is sent away
_CALLS_PER_CONNECTION = 64  # calls under way at once, beside streams


async def serve(config: GatewayConfig) -> None:
    """Runs a gateway until SIGTERM or SIGINT, then drains it.

    Redis need not answer at the start, nor all the time: while it does not, groups get RETRY and the health service says
    NOT_SERVING.

    Raises:
        SettingsError: the identities file, the queue's URL or its data, the certificate, or an address cannot be used.
    """
    log = structlog.get_logger(process="gateway")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    RateLimitedHandler.install()
    gateway = await Gateway.start(config)
    log.info("gateway listening", address=gateway.address, status=gateway.status.address, run=config.queue.run)
    try:
        await gateway.run(stop)
    finally:
        clean = await gateway.drain()
        log.info("gateway ended", clean=clean)


class Gateway:
    """A started gateway.

    Attributes:
        address: host:port that it listens on; the port that was bound if the configured one is 0.
        status: the HTTP status endpoint.
    """

    status: Status

    def __init__(self, config: GatewayConfig, server: grpc.aio.Server) -> None:
        self.address = ""
        self._drain_s = config.drain_s
        self._health = GatewayHealth()
        self._metrics = GatewayMetrics(self._health)
        self._server = server
        self._health_service = grpc_health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        identities = Identities(config.identities_file)
        self._queue = _queue(config)
        self._recent_acks = RecentAcks(self._queue)
        admission_gate = AdmissionGate(config.admission, self._queue.rates, self._queue.leases)
        self._batch_writer = BatchWriter(
            self._queue, admission_gate, config.flush_groups, self._recent_acks, self._metrics
        )
        self._version_feed = VersionFeed(
            self._queue, VersionAges(config.admission.expire_after), self._health, self._redis_changed
        )
        self._tracer = traces.start(config.traces, "gateway", config.queue.run)
        quarantine = config.quarantine_groups > 0
        rules = GroupRules(config.limits, config.queue.id_memory_s)
        handler = SubmitHandler(rules, self._version_feed, admission_gate, self._batch_writer, quarantine, self._tracer)
        gate = CallGate(identities, config.connections, self._metrics)
        self._gate = gate
        self._service = RolloutService(config, gate, handler, self._version_feed, self._queue, self._metrics)
        self._identity_feed = IdentityFeed(self._queue, identities)
        self._operator_threads = OperatorThreads()
        operators = (self._identity_feed, self._version_feed, self._queue, self._operator_threads)
        parts = OperatorParts(config, identities, *operators)
        self._operator_service = operator_service(parts, gate, self._metrics)
        self._metrics.operator.watch(identities)
        self._metrics.watch(self._service.budget)
        self._run_gauges = RunGauges(config, identities, self._queue, self._metrics)
        appliers = (admission_gate.configure, self._service.configure, self._run_gauges.configure)
        self._change_feed = ChangeFeed(config, self._queue, *appliers)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, config: GatewayConfig) -> Gateway:
        """Binds the address and begins to answer calls.

        Raises:
            SettingsError: the identities file, the queue's URL or its data, the certificate, or an address cannot be used.
        """
        server = grpc.aio.server(options=_options(config))
        gateway = cls(config, server)
        registry, health = gateway._metrics.registry.prometheus, gateway._health
        gateway.status = Status.start(config.status.listen, registry, health.alive, health.ready)
        try:
            await gateway._queue.check()
        except UnavailableError as error:
            structlog.get_logger(process="gateway").warning("starting without redis", error=str(error))
        except QueueError as error:
            raise SettingsError(str(error)) from error
        add_to_server(gateway._service, server)
        add_operator_to_server(gateway._operator_service, server)
        health_pb2_grpc.add_HealthServicer_to_server(gateway._health_service, server)
        reflection.enable_server_reflection(
            [_SERVICE, _OPERATOR_SERVICE, grpc_health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
        await gateway._announce_health(False)
        gateway.address = bind(server, config)
        await server.start()
        gateway._tasks = [
            asyncio.create_task(gateway._batch_writer.run()),
            asyncio.create_task(gateway._version_feed.run()),
            asyncio.create_task(gateway._identity_feed.run()),
            asyncio.create_task(gateway._change_feed.run()),
            asyncio.create_task(gateway._service.streams.run()),
            asyncio.create_task(gateway._run_gauges.run()),
            asyncio.create_task(health.loop.beat_with_loop()),
        ]
        return gateway

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until ``stop`` is set. Raises the error that ended a background task, none of which may end before."""
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for task in done - {stopped}:
            task.result()

    async def drain(self) -> bool:
        """Reads nothing more, writes and acknowledges what was read, ends every stream with UNAVAILABLE.

        Returns:
            Whether that was done within the configured time; if not, the remaining streams were cut, and their clients
            send the unacknowledged groups again.
        """
        deadline = time.monotonic() + self._drain_s
        # A run that has just finished ends its gateways: who watches is told before, or would try to connect for ever.
        with contextlib.suppress(QueueError, TimeoutError):
            async with asyncio.timeout(_CUT_S):
                await self._version_feed.read_end()
        self._health.drain()
        await self._health_service.enter_graceful_shutdown()
        self._gate.drain()
        self._version_feed.close()
        clean = True
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._drain_s):
                await self._service.streams.wait_until_empty()
        except TimeoutError:
            clean = False
        await self._server.stop(max(_CUT_S, min(1.0, deadline - time.monotonic())) if clean else 0)
        await cancel_all(self._tasks)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CUT_S):
                await self._batch_writer.finish()
        self._operator_threads.close()
        await self._queue.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        return clean

    async def _redis_changed(self, serving: bool) -> None:
        """Verifies the recent acks when Redis has come back, and announces whether this gateway takes groups."""
        if serving:
            await self._recent_acks.verify()
        await self._announce_health(serving)

    async def _announce_health(self, serving: bool) -> None:
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if serving else kinds.NOT_SERVING
        for name in ("", _SERVICE):
            await self._health_service.set(name, status)


def _queue(config: GatewayConfig) -> GatewayQueue:
    try:
        return GatewayQueue(config.queue, config.quarantine_groups)
    except QueueError as error:
        raise SettingsError(str(error)) from error


def _options(config: GatewayConfig) -> list[tuple[str, int]]:
    connections = config.connections
    return [
        ("grpc.max_receive_message_length", config.limits.max_message_bytes),
        ("grpc.max_send_message_length", config.limits.max_message_bytes + _WRAPPING),
        # gRPC decompresses whatever a stranger sends, before it looks at the size: a megabyte becomes a gigabyte. Turned off,
        # such a message is refused as malformed. (Disabling the algorithms would do too, but logs a line for every call.)
        ("grpc.per_message_decompression", 0),
        # Otherwise two gateways could share one address, and each would get half of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(connections.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", int(connections.min_ping_s * 1000)),
        ("grpc.http2.max_ping_strikes", _PING_STRIKES),
        # Limits of what a connection may use before its caller has authenticated.
        ("grpc.max_concurrent_streams", connections.max_streams_per_fleet + _CALLS_PER_CONNECTION),
        ("grpc.max_allowed_incoming_connections", min(connections.max_connections, connections_possible())),
        ("grpc.max_connection_idle_ms", int(connections.unused_s * 1000)),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_metadata_size", 16 << 10),
    ]
