"""`python -m tests.bench.intake [SECONDS]`: measures the intake against its parts, all in one run.

memcpy, a bare gRPC bidi stream, bare pipelined XADD, and the whole path: client, gateway, Redis with its append-only file
synced every second, learner; accounting on. Groups of 80 KB. Prints a table and writes runs/bench/intake.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis
from tests.bench.backlog import backlog_cost
from tests.bench.fill import fill
from tests.bench.pipeline import TOKEN, Pipeline, start_consumer
from tests.bench.sample import TOKENS, sample_group
from tests.bench.window import Measured, measure

_LIMIT_S = 120.0
_LANES = 256
_LOAD = 0.7  # of the most, where latency is measured
_DECODED = 3000  # groups
_BACKLOGS = ((200_000, TOKENS // 8), (10_000, TOKENS))  # groups, tokens in each
_REPORT = Path("runs/bench/intake.json")


def memcpy() -> float:
    """Measures standard messages copied per second."""
    message, copies = sample_group().SerializeToString(), 20_000
    started = time.monotonic()
    for _ in range(copies):
        bytearray(message)
    return copies / (time.monotonic() - started)


def echo(seconds: float) -> Measured:
    """Measures a bare gRPC stream."""
    command = [sys.executable, "-m", "tests.bench.echo", "serve"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        settings = {"address": f"127.0.0.1:{server.stdout.readline().strip()}", "seconds": seconds}
        return measure("tests.bench.echo", settings, {"gateway": server.pid}, _LIMIT_S)
    finally:
        server.kill()


@contextlib.contextmanager
def redis_everysec(directory: Path) -> Iterator[EmbeddedRedis]:
    """Starts the system's Redis where there is one, as in production; else the bundled one."""
    binary = shutil.which("redis-server")
    server = EmbeddedRedis.start(directory, aof="everysec", binary=Path(binary) if binary else None)
    yield server
    server.stop()


def whole_path(directory: Path, server: EmbeddedRedis, seconds: float) -> tuple[Measured, Measured]:
    """Measures the path from client to learner, saturated and at ``_LOAD`` of that rate."""
    with Pipeline(directory, server) as path:
        settings = {"address": path.address, "token": TOKEN, "lanes": _LANES, "seconds": seconds}
        most = measure("tests.bench.producer", {**settings, "rate": 0}, path.pids, _LIMIT_S)
        paced = measure("tests.bench.producer", {**settings, "rate": _LOAD * most.rate}, path.pids, _LIMIT_S)
        path.finish()
    return most, paced


def decoding(server: EmbeddedRedis) -> dict[str, float]:
    """Measures a learner alone with a backlog, take to token arrays: GB/s of token bytes, by wall clock and by its CPU."""
    queue = QueueConfig(url=server.url, run="decode")
    asyncio.run(fill(queue, _DECODED, TOKENS))
    output, _ = start_consumer(queue).communicate(timeout=_LIMIT_S)
    seen = json.loads(output)
    size = seen["bytes"] / 1e9
    return {"decode_gb_per_s": size / seen["take_s"], "decode_gb_per_cpu_s": size / seen["take_cpu_s"]}


def report(seconds: float) -> dict[str, Any]:
    """Runs all measurements and prints each."""
    values: dict[str, Any] = {"load_at_start": os.getloadavg()[0], "memcpy_per_s": memcpy()}
    print(f"memcpy       {values['memcpy_per_s']:8.0f} groups/s", flush=True)
    bare = echo(seconds)
    show("gRPC echo", bare)
    with tempfile.TemporaryDirectory() as name, redis_everysec(Path(name) / "redis") as server:
        xadd = measure(
            "tests.bench.xadd", {"url": server.url, "seconds": seconds}, {"redis": server.child.pid}, _LIMIT_S
        )
        show("XADD", xadd)
        most, paced = whole_path(Path(name), server, seconds)
        show("Leeway", most)
        show(f"at {_LOAD:.0%} load", paced)
        values |= decoding(server)
        by_clock, by_cpu = values["decode_gb_per_s"], values["decode_gb_per_cpu_s"]
        print(f"take to token arrays: {by_clock:.2f} GB/s by the clock, {by_cpu:.2f} GB per CPU second")
        values["backlogs"] = []
        for groups, tokens in _BACKLOGS:
            cost = backlog_cost(QueueConfig(url=server.url, run="backlog"), groups, tokens)
            values["backlogs"].append(asdict(cost))
            print(
                f"backlog of {cost.groups} x {cost.payload_bytes} bytes: memory {cost.memory_ratio:.3f} of its payload, "
                f"append {cost.append_ratio:.2f} and take {cost.take_ratio:.2f} of the speed without it",
                flush=True,
            )
    return values | {
        "ratio_to_grpc_echo": most.rate / bare.rate,
        "ratio_to_grpc_echo_per_gateway_cpu": bare.cpu_us["gateway"] / most.cpu_us["gateway"],
        "ratio_to_xadd": most.rate / xadd.rate,
        "cpu_us_per_group": sum(most.cpu_us.values()),
        "cpu_us_by_process": most.cpu_us,
        "ack_p50_ms": paced.results["p50_ms"],
        "ack_p99_ms": paced.results["p99_ms"],
        "groups_per_s": {"grpc_echo": bare.rate, "xadd": xadd.rate, "leeway": most.rate, "latency_load": paced.rate},
    }


def show(name: str, measured: Measured) -> None:
    """Prints a row of the table."""
    processes = "  ".join(f"{process} {cost:.0f}" for process, cost in measured.cpu_us.items())
    latency = "  ".join(f"{key} {value:.1f}" for key, value in measured.results.items())
    total = sum(measured.cpu_us.values())
    print(f"{name:12} {measured.rate:8.0f} groups/s  CPU us/group {total:5.0f}: {processes}  {latency}", flush=True)


def main(seconds: float) -> None:
    """Runs the bench, prints the table and writes the report."""
    values = report(seconds)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(json.dumps(values, indent=2) + "\n")
    print(
        f"ratio_to_grpc_echo={values['ratio_to_grpc_echo']:.2f} "
        f"(by gateway CPU {values['ratio_to_grpc_echo_per_gateway_cpu']:.2f}) "
        f"ratio_to_xadd={values['ratio_to_xadd']:.2f} cpu_us_per_group={values['cpu_us_per_group']:.0f} "
        f"ack_p50_ms={values['ack_p50_ms']:.1f} ack_p99_ms={values['ack_p99_ms']:.1f}; written to {_REPORT}"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0)
