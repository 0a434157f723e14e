"""`leeway logs`: prints the log files of a run's processes, and follows them over rotations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from learner.cli.run.run_directory import RunDirectory, RunError

_POLL_S = 0.2
_BLOCK_BYTES = 64 << 10


class FollowedLog:
    """A log file that is read as it grows; one that was renamed or cut to its end, and its successor from its start.

    Args:
        path: the file, which need not exist yet.
        start: bytes of it that are skipped.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._offset = start
        self._inode: int | None = None
        self._rest = b""
        self._file = None
        self._open()

    def lines(self) -> list[str]:
        """The lines that have become complete since the last call."""
        data = self._read()
        if self._replaced():
            data += self._read()  # what was written between the two looks
            if (self._rest + data) and not (self._rest + data).endswith(b"\n"):
                data += b"\n"  # its last line will not be completed
            self.close()
            self._offset = 0
            self._open()
            data += self._read()
        *complete, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in complete]

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _open(self) -> None:
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            return
        self._inode = os.fstat(self._file.fileno()).st_ino
        self._file.seek(self._offset)

    def _read(self) -> bytes:
        if self._file is None:
            self._open()
        return b"" if self._file is None else self._file.read()

    def _replaced(self) -> bool:
        """Whether the path is another file now, or this one is shorter than what was read of it."""
        if self._file is None:
            return False
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False  # between a rename and the creation of the next one
        return now.st_ino != self._inode or now.st_size < self._file.tell()


def log_files(run: RunDirectory) -> dict[str, Path]:
    """The log of each process that has one, by the process's name."""
    files = {path.stem: path for path in sorted(run.logs.glob("*.log"))}
    redis = run.redis / "redis.log"
    return {**files, "redis": redis} if redis.is_file() else files


def chosen_logs(run: RunDirectory, process: str | None) -> dict[str, Path]:
    """The logs of one process, or of all.

    Raises:
        RunError: no process of that name has a log; the message names those that have.
    """
    files = log_files(run)
    if process is None:
        return files
    if process not in files:
        raise RunError(f"{run.root}: no log of process {process!r}; there are: {', '.join(files) or 'none'}")
    return {process: files[process]}


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """The last ``count`` complete lines of a file, and the offset in bytes behind them."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        data, start = b"", end
        while start and data.count(b"\n") <= count:
            start = max(0, start - _BLOCK_BYTES)
            file.seek(start)
            data = file.read(end - start)
    complete = data[: data.rfind(b"\n") + 1]
    behind = end - (len(data) - len(complete))
    lines = complete.decode(errors="replace").split("\n")[:-1]
    return lines[-count:] if count else [], behind


def shown_logs(run: RunDirectory, process: str | None, count: int) -> Iterator[str]:
    """Yields the last lines of each log; of several logs each under its name.

    Args:
        run: the run.
        process: whose log; None: every process's.
        count: lines of each.

    Raises:
        RunError: no process of that name has a log.
    """
    files = chosen_logs(run, process)
    for name, path in files.items():
        if process is None:
            yield f"==> {name} <=="
        yield from last_lines(path, count)[0]


def followed_logs(
    run: RunDirectory, process: str | None, count: int, pause: Callable[[], None] = lambda: time.sleep(_POLL_S)
) -> Iterator[str]:
    """Yields the last lines and then each new one, until the caller has enough; logs that begin later are followed too.

    Args:
        run: the run.
        process: whose log; None: every process's, each line after the process's name.
        count: lines of each at first.
        pause: called when there is nothing new.

    Raises:
        RunError: no process of that name has a log.
    """
    followed: dict[str, FollowedLog] = {}
    first = chosen_logs(run, process)
    width = max(map(len, first), default=0)
    try:
        for name, path in first.items():
            lines, behind = last_lines(path, count)
            followed[name] = FollowedLog(path, behind)
            yield from (_named(name, line, process, width) for line in lines)
        while True:
            if process is None:
                for name in log_files(run).keys() - followed.keys():
                    followed[name] = FollowedLog(log_files(run)[name])
            new = [_named(name, line, process, width) for name, log in followed.items() for line in log.lines()]
            yield from new
            if not new:
                pause()
    finally:
        for log in followed.values():
            log.close()


def _named(name: str, line: str, process: str | None, width: int) -> str:
    return line if process is not None else f"{name:{width}} | {line}"
