"""Tests that a gateway survives garbage at its port and methods, and that other fleets notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from leeway.v1 import rollout_pb2 as pb
from tests.fuzz.mutations import Corpus
from tests.service.fleet import TOKENS, VOCABULARY, Fleet, GatewayProcess, refusal, until, valid_group

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SERVICE = "/leeway.v1.RolloutService/"


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """Encodes an HTTP/2 frame; ``length`` may be wrong on purpose."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def garbage() -> list[bytes]:
    """Yields what a port scanner, a browser and a broken HTTP/2 client send."""
    rng = random.Random(7)
    frames = [
        frame(rng.randrange(16), rng.randrange(256), rng.getrandbits(31), rng.randbytes(rng.randrange(64)))
        for _ in range(20)
    ]
    started = _PREFACE + _SETTINGS
    return [
        b"",
        b"\x00" * 1000,
        rng.randbytes(5000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),  # a TLS hello
        _PREFACE[:10],
        _PREFACE + rng.randbytes(100),
        *(started + each for each in frames),
        started + frame(1, 4, 1, rng.randbytes(40)),  # HEADERS that HPACK cannot read
        started + frame(0, 0, 1, b"x", length=0xFFFFFF),  # DATA of 16 MB that never comes
        started + frame(8, 0, 0, b"\x00\x00\x00\x00"),  # WINDOW_UPDATE of zero
        started + frame(9, 0, 1, b"x" * 100) * 50,  # CONTINUATION of nothing
        started + frame(3, 0, 1, b"\x00\x00\x00\x08") * 500,  # a storm of RST_STREAM
        started + frame(6, 0, 0, b"12345678") * 500,  # and of pings
    ]


async def throw(address: str, data: bytes) -> None:
    """Connects, sends ``data``, reads the reply and hangs up."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1 << 16), 0.2)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def busy_neighbour(gateway: GatewayProcess) -> AsyncIterator[list[int]]:
    """Keeps a fleet submitting on one stream during the block; none of its calls may fail."""
    accepted = [0]
    stop = asyncio.Event()

    async def submit() -> None:
        async with gateway.connect(TOKENS["beta"]) as fleet:
            call = fleet.open(timeout=120)
            while not stop.is_set():
                await call.write(pb.SubmitRequest(sequence=accepted[0], group=valid_group()))
                assert (await call.read()).acks[0].outcome == pb.OUTCOME_ACCEPTED
                accepted[0] += 1
            await call.done_writing()

    running = asyncio.create_task(submit())
    yield accepted
    stop.set()
    await asyncio.wait_for(running, 30)


async def test_bytes_that_are_no_grpc(start_gateway):
    gateway = await start_gateway()
    async with busy_neighbour(gateway) as accepted:
        for data in garbage():
            before = accepted[0]
            await throw(gateway.address, data)
            await until(lambda before=before: accepted[0] > before)
    assert gateway.child.exit_code() is None, gateway.log()
    assert "GOAWAY" not in gateway.log()  # what strangers say is not repeated


def raw(fleet: Fleet, method: str, streaming: bool) -> Any:
    """A gRPC method that takes bytes as they are."""
    make = fleet.channel.stream_stream if streaming else fleet.channel.unary_unary
    if method == "WatchPolicy":
        make = fleet.channel.unary_stream
    return make(_SERVICE + method)


async def outcome(call: Any) -> grpc.StatusCode:
    """Makes a call of any kind and returns the status code it ends with."""
    try:
        async with asyncio.timeout(60):
            if hasattr(call, "read"):
                await call.read()
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("token", [TOKENS["alpha"], None], ids=["a fleet", "a stranger"])
async def test_messages_that_are_no_messages(start_gateway, token):
    gateway = await start_gateway(connections={"calls_per_s": 10_000.0})
    corpus = Corpus(11, size=64)
    # What strangers send is not even parsed.
    # INTERNAL is what grpc.aio's client says when a write of its own meets the end of the stream.
    expected = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL} if token is None else {
        grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED,
    }  # fmt: skip
    async with busy_neighbour(gateway) as accepted, gateway.connect(token) as fleet:
        for _ in range(60):
            message = corpus.next()
            calls = [raw(fleet, method, False)(message, metadata=fleet.metadata, timeout=10) for method in _UNARY]
            watch = raw(fleet, "WatchPolicy", True)(message, metadata=fleet.metadata, timeout=10)
            stream = raw(fleet, "Submit", True)(metadata=fleet.metadata, timeout=10)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await stream.write(message)
                await stream.done_writing()
            before = accepted[0]
            for call in (*calls, stream):
                assert await outcome(call) in expected
            watch.cancel()
            await until(lambda before=before: accepted[0] > before)
        unknown = fleet.channel.unary_unary(_SERVICE + "Nothing")(b"", metadata=fleet.metadata, timeout=10)
        assert await outcome(unknown) == grpc.StatusCode.UNIMPLEMENTED
    assert gateway.child.exit_code() is None, gateway.log()
    # Every line is ours, and few are about this.
    said = [json.loads(line)["event"] for line in gateway.log().splitlines()]
    assert said.count("grpc message") < 20


_UNARY = ("Lease", "DescribeRun", "GetLedger", "ListLedgers", "ReportEvaluation")


def peak_mib(gateway: GatewayProcess) -> float:
    """The most memory that the gateway has used so far."""
    lines = Path(f"/proc/{gateway.child.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.mark.parametrize("token", [TOKENS["alpha"], None], ids=["a fleet", "a stranger"])
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_refused_and_not_decompressed(start_gateway, token, compression):
    gateway = await start_gateway()
    bomb = bytes(256 << 20)  # 260 KB on the wire: below the gateway's limit of 1 MiB
    async with gateway.connect(token) as fleet, gateway.connect(TOKENS["beta"]) as neighbour:
        assert await neighbour.outcomes([valid_group()]) == ["ACCEPTED"]
        before = peak_mib(gateway)
        options = {"metadata": fleet.metadata, "compression": compression, "timeout": 60}
        code, text = await ending(raw(fleet, "Lease", False)(bomb, **options))
        stream_code, _ = await ending(write_and_read(raw(fleet, "Submit", True)(**options), bomb))
        assert await neighbour.outcomes([valid_group()]) == ["ACCEPTED"]
        assert peak_mib(gateway) - before < 64
    expected = grpc.StatusCode.UNAUTHENTICATED if token is None else grpc.StatusCode.INVALID_ARGUMENT
    assert code == expected
    # The stream is refused while the client still compresses: its write fails first, with a code of the client's own.
    assert stream_code in (expected, grpc.StatusCode.INTERNAL)
    if token is not None:
        assert "without compression" in text or "at most 65536" in text
    for line in gateway.log().splitlines():
        json.loads(line)  # gRPC's core has logged nothing: a stranger could fill the disk with it


async def write_and_read(stream: Any, message: bytes) -> None:
    """Sends one message on a stream and waits for what comes back."""
    await stream.write(message)
    await stream.read()


async def ending(call: Any) -> tuple[grpc.StatusCode, str]:
    """Awaits ``call`` and returns the code and the text of the error that it ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


async def test_too_many_groups_in_one_message_end_the_stream_after_the_acks_before_it(start_gateway):
    gateway = await start_gateway(limits={"vocab_size": VOCABULARY, "max_message_bytes": 4 << 20})
    most = pb.SubmitRequest(sequence=1, group=valid_group())
    most.more.extend([pb.SubmitRequest()] * 1023)
    for sequence, request in enumerate(most.more, start=2):
        request.sequence = sequence
    async with gateway.connect() as fleet:
        stream = fleet.open()
        await stream.write(most)
        acks: list[pb.Ack] = []
        while len(acks) < 1024:
            acks += (await stream.read()).acks
        assert sorted(ack.sequence for ack in acks) == list(range(1, 1025))
        before = peak_mib(gateway)
        flood = raw(fleet, "Submit", True)
        error = await refusal(
            lambda: write_and_read(flood(metadata=fleet.metadata, timeout=60), b"\x22\x00" * 1_000_000)
        )
        assert (error.code(), "more than 1024 groups" in str(error.details())) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )
        assert peak_mib(gateway) - before < 64
        await stream.write(pb.SubmitRequest(sequence=2000, group=valid_group()))
        assert (await stream.read()).acks[0].outcome == pb.OUTCOME_ACCEPTED
