"""Runs a worker's task in a process of its own, under a time limit, and reads what it reports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from learner.cli.preflight.finding import Finding
from runtime.children import die_with_parent

_KEPT_BYTES = 8192  # of what a task prints; the rest is read and dropped
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class DryRunReport:
    """What a dry run found out.

    Attributes:
        findings: what it found, in order.
        lengths: "prompts" (measured), "size" (prompts of the task; None: endless), "distinct", "shortest", "median",
            "longest", "too_long"; empty when none was measured.
        rewards: the reward of each response that was scored, by what the response is.
        unfinished: why it did not come to its end, with what it was doing; empty when it did.
        hung: whether that is the time limit.
    """

    findings: list[Finding] = field(default_factory=list)
    lengths: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    unfinished: str = ""
    hung: bool = False


def dry_run(request: Mapping[str, Any], limit_s: float) -> DryRunReport:
    """Runs `python -m rollout.environments.dry_run` on ``request`` and kills what is left of it after ``limit_s`` seconds.

    The task is imported from the current directory, as a worker that `leeway up` starts imports it.
    """
    with tempfile.TemporaryFile() as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "rollout.environments.dry_run"],
            stdin=subprocess.PIPE,
            stdout=lines,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert process.stdin and process.stderr  # noqa: PT018
        printed = _Tail(process.stderr)
        hung = False
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(request).encode() + b"\n")
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            with contextlib.suppress(ProcessLookupError):  # its hosts too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines.seek(0)
        why = f"no answer within {limit_s:g} s" if hung else f"the process ended with {process.returncode}"
        return _read(lines, why, hung, printed)


def _read(lines: IO[bytes], why: str, hung: bool, printed: _Tail) -> DryRunReport:
    findings: list[Finding] = []
    found: dict[str, Any] = {}
    for row in _rows(lines):
        if "finding" in row:
            findings.append(Finding(*row["finding"]))
        found |= row
    lengths, rewards = found.get("lengths", {}), found.get("rewards", {})
    if "done" in found:
        return DryRunReport(findings, lengths, rewards)
    said = "" if hung else printed.last_line()
    text = f"{found.get('begin', 'starting python')}: {why}" + (f": {said}" if said else "")
    return DryRunReport(findings, lengths, rewards, text, hung)


def _rows(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # half a line of a process that was killed
            yield json.loads(line)


class _Tail:
    """Reads a pipe to its end in a thread, so that printing neither blocks nor fills a disk, and keeps the last part."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True, name="dry-run-output")
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            while block := self._pipe.read1(_KEPT_BYTES):  # type: ignore[attr-defined]  # a buffered reader
                self._kept = (self._kept + block)[-_KEPT_BYTES:]

    def last_line(self) -> str:
        """The last line that was printed, shortened, with characters that a terminal does not print escaped."""
        self._thread.join(1.0)  # whoever left the process group may still have the pipe
        printed = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        return repr(printed[-1][:_SHOWN_CHARACTERS])[1:-1] if printed else ""
