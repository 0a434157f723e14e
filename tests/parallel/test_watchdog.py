"""A rank freezes inside a step: its peer ends within the watchdog's limit, and its log says where it was waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parent / "hang.py"
LIMIT_S = 2.0


def start(rank: int, directory: Path) -> subprocess.Popen[bytes]:
    root = SCRIPT.parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'proto'}", "OMP_NUM_THREADS": "1"}
    arguments = [str(rank), str(directory / "store"), str(directory / f"steps.{rank}"), str(LIMIT_S)]
    with (directory / f"log.{rank}").open("w") as log:
        return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], env=environment, stdout=log, stderr=log)


def steps(directory: Path, rank: int) -> int:
    path = directory / f"steps.{rank}"
    return path.stat().st_size if path.exists() else 0


def test_a_frozen_peer_ends_the_rank_that_waits_for_it(tmp_path: Path):
    ranks = [start(rank, tmp_path) for rank in range(2)]
    try:
        deadline = time.monotonic() + 180
        while min(steps(tmp_path, rank) for rank in range(2)) < 100:
            assert time.monotonic() < deadline, (tmp_path / "log.0").read_text()
            assert [rank.poll() for rank in ranks] == [None, None], (tmp_path / "log.0").read_text()
            time.sleep(0.01)
        os.kill(ranks[1].pid, signal.SIGSTOP)
        frozen = time.monotonic()
        assert ranks[0].wait(timeout=60) == 1
        took = time.monotonic() - frozen
        assert LIMIT_S * 0.9 < took < LIMIT_S + 10  # the rest is for a busy machine
        words = (tmp_path / "log.0").read_text()
        assert "Timeout (0:00:02)!" in words
        assert "in all_reduce" in words
        assert "hang.py" in words
        print(f"ended {took:.1f} s after its peer froze, limit {LIMIT_S} s")
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(timeout=60)
