"""Probes as the kubelet makes them, from the node: startup until it succeeds, then readiness, liveness at their periods."""

from __future__ import annotations

import ctypes
import http.client
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.deploy.box import Box
from tests.deploy.podspec import Probe

_CLONE_NEWNET = 0x40000000
_LOOK_S = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Tally:
    """Results of a probe so far. Times are seconds since its container started."""

    probe: Probe
    passed: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    first_green_s: float | None = None
    lost: int = 0  # failures after the first success

    @property
    def green(self) -> bool:
        """Whether the last answer was good."""
        return self.passed > 0 and not self.failed_in_a_row

    @property
    def given_up(self) -> bool:
        """Whether the kubelet would act now: restart the container, or take the pod out of its services."""
        return self.failed_in_a_row >= self.probe.failures

    def add(self, good: bool, after_s: float) -> None:
        if good:
            self.passed += 1
            self.failed_in_a_row = 0
            self.first_green_s = after_s if self.first_green_s is None else self.first_green_s
        else:
            self.failed += 1
            self.failed_in_a_row += 1
            self.lost += self.passed > 0

    def __str__(self) -> str:
        first = "never green" if self.first_green_s is None else f"green after {self.first_green_s:.1f} s"
        return (
            f"{self.probe}: {first}, {self.passed} passed, {self.failed} failed ({self.lost} after the first success)"
        )


class Prober:
    """Makes one container's probes, in threads of their own, until ``stop``.

    Args:
        box: the container, just started.
        address: its pod's.
        enter: moves the calling thread to the node, from where the kubelet asks.
    """

    def __init__(self, box: Box, address: str, enter: Callable[[], None]) -> None:
        self.tallies = [Tally(probe) for probe in box.container.probes]
        self._box = box
        self._address = address
        self._enter = enter
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._started = threading.Event()
        if not any(tally.probe.kind == "startup" for tally in self.tallies):
            self._started.set()
        self._threads = [threading.Thread(target=self._make, args=(tally,), daemon=True) for tally in self.tallies]
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether every probe is green: what `kubectl wait --for=condition=Ready` waits for, and liveness too."""
        return all(tally.green for tally in self.tallies)

    def stop(self) -> None:
        """Starts no more probes; those under way end by their own timeouts."""
        self._stop.set()
        self._started.set()
        for thread in self._threads:
            thread.join()

    def _make(self, tally: Tally) -> None:
        self._enter()
        while not self._box.started and not self._stop.wait(_LOOK_S):
            pass
        probe = tally.probe
        first = probe.kind == "startup"
        if not first:
            self._started.wait()
        self._stop.wait(probe.delay_s)
        while not self._stop.is_set():
            good = self._ask(probe)
            if self._stop.is_set():
                return  # the container may have been told to end while we asked
            tally.add(good, time.monotonic() - self._began)
            if first and good:
                self._started.set()
                return
            self._stop.wait(probe.period_s)

    def _ask(self, probe: Probe) -> bool:
        if "exec" in probe.check:
            return self._box.execute(probe.check["exec"]["command"], probe.timeout_s) == 0
        where = probe.check["httpGet"]
        connection = http.client.HTTPConnection(self._address, where["port"], timeout=probe.timeout_s)
        try:
            connection.request("GET", where["path"])
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def enter_network(namespace: str) -> None:
    """Moves the calling thread, and no other, into a network namespace that `ip netns` made. Raises OSError."""
    with open(f"/var/run/netns/{namespace}") as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)
