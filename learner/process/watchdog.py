"""Ends a rank that has stopped: a peer that froze, a collective that never completes, a file system that hangs.

Collectives have a timeout of their own, for the calls that honour it; this covers all the rest, and says where each thread
was. Every rank has its own, so that the one whose peers are gone needs nobody to tell it. The clock is faulthandler's thread,
which needs no interpreter lock: a rank stuck in native code with the lock held ends too. The supervisor then starts the run
again from its checkpoint.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable


class Watchdog:
    """Ends the process ``limit_s`` seconds after the last ``alive``: every thread's stack to stderr, exit status 1.

    A process that was itself frozen for so long ends too when it is thawed: its peers have given it up.

    Args:
        limit_s: the longest silence.
        told: called by every ``alive`` too.
    """

    def __init__(self, limit_s: float, told: Callable[[], None] = lambda: None) -> None:
        self._limit_s = limit_s
        self._told = told

    def alive(self) -> None:
        """Something moved: the clock starts again. The first call starts it."""
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=sys.stderr)
        self._told()

    def stop(self) -> None:
        """Nothing is watched any more."""
        faulthandler.cancel_dump_traceback_later()
