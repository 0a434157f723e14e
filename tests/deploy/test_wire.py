"""Tests of the capture reader on captures made by hand: TLS passes in whatever order, plain text does not."""

from __future__ import annotations

import io
from pathlib import Path

import dpkt
import pytest

from tests.deploy.wire import Stream, faults, leaks, read

FLEET, GATEWAY = ("10.0.0.1", 40_000), ("10.0.0.2", 50_051)
START = (1 << 32) - 20  # the sequence numbers wrap within the first record


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2) + body


TLS = record(22, b"hello" * 10) + record(20, b"\x01") + record(23, b"\x80" * 300)


def frame(sequence: int, payload: bytes, flags: int = dpkt.tcp.TH_ACK) -> bytes:
    tcp = dpkt.tcp.TCP(sport=FLEET[1], dport=GATEWAY[1], seq=sequence % (1 << 32), flags=flags, data=payload)
    ends = [bytes(map(int, address.split("."))) for address, _ in (FLEET, GATEWAY)]
    ip = dpkt.ip.IP(src=ends[0], dst=ends[1], p=dpkt.ip.IP_PROTO_TCP, data=tcp)
    ip.len = len(ip)
    return bytes(dpkt.ethernet.Ethernet(data=ip))


def captured(directory: Path, segments: list[tuple[int, bytes]], syn: bool = True) -> list[Stream]:
    """Returns the streams read from a capture of the segments (offset, payload) after a SYN."""
    buffer = io.BytesIO()
    writer = dpkt.pcap.Writer(buffer)
    if syn:
        writer.writepkt(frame(START, b"", dpkt.tcp.TH_SYN), ts=0)
    for offset, payload in segments:
        writer.writepkt(frame(START + 1 + offset, payload), ts=0)
    path = directory / "link.pcap"
    path.write_bytes(buffer.getvalue())
    return read(path)


def cut(data: bytes, size: int) -> list[tuple[int, bytes]]:
    return [(offset, data[offset : offset + size]) for offset in range(0, len(data), size)]


@pytest.mark.parametrize("size", [7, 100, 1000])
def test_a_stream_is_put_together_whatever_the_order(tmp_path: Path, size: int):
    pieces = cut(TLS, size)
    again = [(0, TLS[: size // 2]), (size // 2, TLS[size // 2 : size + 3])]  # resent, cut otherwise
    (stream,) = captured(tmp_path, [*reversed(pieces), *again, *pieces])
    assert (stream.source, stream.target) == (FLEET, GATEWAY)
    assert bytes(stream.data) == TLS
    assert faults(stream) == []


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not with a TLS handshake"),
        (TLS + b"Bearer token", "no TLS record at byte"),
        (record(23, b"\x80" * 20), "not with a TLS handshake"),
    ],
)
def test_plain_text_is_found(tmp_path: Path, data: bytes, complaint: str):
    (stream,) = captured(tmp_path, cut(data, 50))
    assert complaint in faults(stream)[0]


def test_a_stream_that_is_not_all_there_proves_nothing(tmp_path: Path):
    pieces = cut(TLS, 50)
    (stream,) = captured(tmp_path, [pieces[0], *pieces[2:]])
    assert "does not hold all of it" in faults(stream)[0]
    (stream,) = captured(tmp_path, pieces, syn=False)
    assert "does not hold all of it" in faults(stream)[0]


def test_secrets_are_found_where_they_are_and_nowhere_else(tmp_path: Path):
    streams = captured(tmp_path, cut(TLS + b"Bearer of-the-fleet", 13))
    secrets = [("token", b"of-the-fleet"), ("run", b"the-run")]
    assert leaks(streams, secrets) == ["token"]


def test_a_port_used_again_is_another_stream(tmp_path: Path):
    captured(tmp_path, cut(TLS, 50))
    path = tmp_path / "link.pcap"
    with path.open("ab") as file:  # without another file header
        second = io.BytesIO()
        writer = dpkt.pcap.Writer(second)
        writer.writepkt(frame(5000, b"", dpkt.tcp.TH_SYN), ts=1)
        writer.writepkt(frame(5001, b"GET / HTTP/1.1"), ts=1)
        file.write(second.getvalue()[24:])
    first, other = read(path)
    assert faults(first) == []
    assert "not with a TLS handshake" in faults(other)[0]
