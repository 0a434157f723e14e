"""Reads the byte streams of each TCP connection in a capture, and tells whether they are all TLS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dpkt

_HANDSHAKE = 22
_RECORDS = range(20, 25)  # change cipher spec, alert, handshake, application data, heartbeat
_RECORD_BYTES = (1 << 14) + 2048  # the most a TLS 1.2 record may hold, encrypted
_HEADER = 5

End = tuple[str, int]  # address, port


@dataclass
class Stream:
    """One direction of a connection, reassembled from its segments.

    Attributes:
        data: bytes from the first one to the first gap.
        opened: whether the capture holds its beginning.
    """

    source: End
    target: End
    data: bytearray = field(default_factory=bytearray)
    opened: bool = False
    _next: int = 0
    _waiting: dict[int, bytes] = field(default_factory=dict)

    def begin(self, sequence: int) -> None:
        """Records a SYN: the first byte of the stream comes after ``sequence``."""
        if not self.opened:
            self.opened, self._next = True, (sequence + 1) % (1 << 32)

    def add(self, sequence: int, payload: bytes) -> None:
        """Adds a segment. Segments may come twice, overlap, and be out of order."""
        if not self.opened:
            self.data += payload  # no beginning: kept as it came, to be reported
            return
        self._waiting[sequence] = max(payload, self._waiting.get(sequence, b""), key=len)
        while (known := self._following()) is not None:
            segment = self._waiting.pop(known)
            skipped = (self._next - known) % (1 << 32)
            self.data += segment[skipped:]
            self._next = (self._next + max(0, len(segment) - skipped)) % (1 << 32)

    @property
    def gap(self) -> bool:
        """Whether bytes are missing before a segment that was captured."""
        return bool(self._waiting)

    def _following(self) -> int | None:
        """Finds a segment that begins at or before the next byte."""
        return next((known for known in self._waiting if (self._next - known) % (1 << 32) < 1 << 31), None)


def read(capture: Path) -> list[Stream]:
    """Reads both directions of every TCP connection over IPv4 in a pcap file. A port used again begins another stream."""
    streams: list[Stream] = []
    current: dict[tuple[End, End], Stream] = {}
    with capture.open("rb") as file:
        for _, frame in dpkt.pcap.Reader(file):
            packet = _packet(frame)
            if packet is None:
                continue
            segment = packet.data
            ends = ((_address(packet.src), segment.sport), (_address(packet.dst), segment.dport))
            syn = bool(segment.flags & dpkt.tcp.TH_SYN)
            if ends not in current or (syn and current[ends].data):
                current[ends] = Stream(*ends)
                streams.append(current[ends])
            if syn:
                current[ends].begin(segment.seq)
            if segment.data:
                current[ends].add(segment.seq, bytes(segment.data))
    return streams


def faults(stream: Stream) -> list[str]:
    """Reasons why a stream is not TLS from the first byte to the last; empty when it is. The last record may be cut short."""
    name = f"{stream.source[0]}:{stream.source[1]} -> {stream.target[0]}:{stream.target[1]}"
    if not stream.data:
        return []
    if not stream.opened or stream.gap:
        return [f"{name}: the capture does not hold all of it"]
    if stream.data[0] != _HANDSHAKE:
        return [f"{name}: begins with {bytes(stream.data[:16])!r}, not with a TLS handshake"]
    offset = 0
    while offset + _HEADER <= len(stream.data):
        kind, major, size = stream.data[offset], stream.data[offset + 1], _uint16(stream.data, offset + 3)
        if kind not in _RECORDS or major != 3 or size > _RECORD_BYTES:
            return [f"{name}: no TLS record at byte {offset}: {bytes(stream.data[offset : offset + 16])!r}"]
        offset += _HEADER + size
    return []


def leaks(streams: Iterable[Stream], secrets: Iterable[tuple[str, bytes]]) -> list[str]:
    """Names of the secrets that a stream contains in clear."""
    data = [bytes(stream.data) for stream in streams]
    return [name for name, secret in secrets if any(secret in one for one in data)]


def _packet(frame: bytes) -> Any:
    """Returns the IPv4 packet of a frame; None if it does not carry TCP."""
    packet = dpkt.ethernet.Ethernet(frame).data
    return packet if isinstance(packet, dpkt.ip.IP) and isinstance(packet.data, dpkt.tcp.TCP) else None


def _address(raw: bytes) -> str:
    return ".".join(map(str, raw))


def _uint16(data: bytearray, offset: int) -> int:
    return data[offset] << 8 | data[offset + 1]
