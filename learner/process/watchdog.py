"""Ends a rank that hangs: on a frozen peer, in a collective that never completes, or in a file system that does not answer.

Collectives have a timeout of their own, but not every call honours it; the watchdog covers all the rest, and prints where
each thread was. Every rank has one, so that a rank whose peers are gone needs no message from them. The clock is
faulthandler's thread, which needs no interpreter lock: a rank that is stuck in native code and has taken the lock ends too.
The supervisor then starts the run again from its checkpoint.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable


class Watchdog:
    """Ends the process ``limit_s`` seconds after the last ``alive``, with every thread's stack on stderr and exit status 1.

    A process that was itself suspended for that long ends when it is resumed: its peers have given it up.

    Args:
        limit_s: the longest time in seconds without a call of ``alive``.
        on_alive: called by every ``alive`` too.
    """

    def __init__(self, limit_s: float, on_alive: Callable[[], None] = lambda: None) -> None:
        self._limit_s = limit_s
        self._on_alive = on_alive

    def alive(self) -> None:
        """Reports progress: starts the clock, or starts it again."""
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=sys.stderr)
        self._on_alive()

    def stop(self) -> None:
        """Stops the clock."""
        faulthandler.cancel_dump_traceback_later()
