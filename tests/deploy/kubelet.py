"""Runs pods as a kubelet would: init containers in order, probes, restarts, preStop, SIGTERM, grace, SIGKILL."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from tests.deploy.box import Box
from tests.deploy.network import Host, Network
from tests.deploy.podspec import Container, Overlay, Pod
from tests.deploy.probing import Prober, enter_network
from tests.deploy.volumes import materialise

_MOST_RESTARTS = 5


class PodError(Exception):
    """A pod that a cluster would show as failed. The message ends with the last lines of its log."""


@dataclass(frozen=True)
class Ending:
    """How a container ended when its pod was deleted."""

    container: str
    exit_code: int | None
    seconds: float
    killed: bool

    def __str__(self) -> str:
        how = "killed after its grace period" if self.killed else f"exit status {self.exit_code}"
        return f"{self.container}: {how}, {self.seconds:.1f} s after its pod was deleted"


class RunningPod:
    """A running pod. ``tick`` advances it; call ``tick`` from the main thread only, because it starts containers."""

    def __init__(self, pod: Pod, node: Node, host: Host, volumes: Mapping[str, Path]) -> None:
        self.pod = pod
        self.restarts = 0
        self.done = False
        self.boxes: list[Box] = []
        self.probers: list[Prober] = []
        self.commands: list[tuple[str, list[str]]] = []
        self._node = node
        self._host = host
        self._volumes = volumes
        self._init = list(pod.init)
        self._waiting: Box | None = None

    @property
    def ready(self) -> bool:
        """Whether all containers run and are ready; a Job's pod may instead have ended with status 0."""
        return self.done or (bool(self.probers) and all(prober.ready for prober in self.probers))

    def tick(self) -> None:
        """Starts, probes and restarts containers as due. Raises PodError."""
        if self.boxes or self.done:
            self._watch()
        elif self._waiting is not None and self._waiting.exit_code is not None:
            self._next_init(self._waiting)
        elif self._waiting is None and self._init:
            self._waiting = self._start(self._init[0])
        elif self._waiting is None:
            self.boxes = [self._start(container) for container in self.pod.containers]
            enter = partial(enter_network, self._node.namespace)
            self.probers = [Prober(box, self.pod.address, enter) for box in self.boxes]

    def stop(self) -> list[Ending]:
        """Ends the pod as a deletion does: preStop, SIGTERM, grace period, SIGKILL. Returns when none of it runs."""
        began = time.monotonic()
        for prober in self.probers:
            prober.stop()
        boxes = self.boxes or [box for box in [self._waiting] if box is not None]
        with ThreadPoolExecutor(max(1, len(boxes))) as pool:
            return list(pool.map(lambda box: self._end(box, began), [box for box in boxes if box.exit_code is None]))

    def _end(self, box: Box, began: float) -> Ending:
        deadline = began + self.pod.grace_s
        self._before_stop(box, deadline)
        box.signal(signal.SIGTERM)
        ended = box.wait(deadline)
        box.kill()
        return Ending(f"{self.pod.name}/{box.container.name}", box.exit_code, time.monotonic() - began, not ended)

    def _before_stop(self, box: Box, deadline: float) -> None:
        hook = box.container.pre_stop or {}
        left = max(0.0, deadline - time.monotonic())
        if "sleep" in hook:
            box.wait(time.monotonic() + min(left, hook["sleep"]["seconds"]))
        elif "exec" in hook:
            box.execute(hook["exec"]["command"], left)
        elif hook:
            raise ValueError(f"{self.pod.name}: a preStop hook of a kind that is not known here: {hook}")

    def _next_init(self, box: Box) -> None:
        if box.exit_code:
            self._count_restart(box)
        else:
            self._init.pop(0)
        self._waiting = None

    def _watch(self) -> None:
        for index, box in enumerate(self.boxes):
            for tally in self.probers[index].tallies:
                if tally.given_up and tally.probe.kind != "readiness":
                    raise PodError(
                        f"{self.pod.name}/{box.container.name}: {tally}; its log ends:\n{box.child.tail(15)}"
                    )
            if box.exit_code is None or (self.pod.ends and box.exit_code == 0):
                continue
            self._count_restart(box)
            self.probers[index].stop()
            self.boxes[index] = self._start(box.container)
            enter = partial(enter_network, self._node.namespace)
            self.probers[index] = Prober(self.boxes[index], self.pod.address, enter)
        if self.pod.ends and all(box.exit_code == 0 for box in self.boxes):
            self.done = True

    def _count_restart(self, box: Box) -> None:
        self.restarts += 1
        if self.restarts > _MOST_RESTARTS:
            raise PodError(
                f"{self.pod.name}/{box.container.name} ended {self.restarts} times, now with exit status "
                f"{box.exit_code}; its log ends:\n{box.child.tail(15)}"
            )

    def _start(self, container: Container) -> Box:
        name = f"{self.pod.name}.{container.name}"
        self.commands.append((container.name, container.command))
        return Box(name, self._host, container, self._volumes, self._node.names, self._node.scratch)


class Node:
    """The pods of an overlay on a network of their own. Use it with ``with``, which ends and removes all of it.

    Args:
        overlay: what to run.
        scratch: an empty directory, for volumes, root directories and logs.
    """

    def __init__(self, overlay: Overlay, scratch: Path) -> None:
        self.scratch = scratch
        self.pods: list[RunningPod] = []
        self.names: dict[str, str] = {}
        self.namespace = ""
        self._overlay = overlay
        self._network = Network()

    def __enter__(self) -> Self:
        self._network.__enter__()
        try:
            self.namespace = self._network.host("node").namespace
            hosts = {name: self._network.host(f"p{index}") for index, name in enumerate(self._overlay.names())}
            addresses = {name: host.address for name, host in hosts.items()}
            self.names = {**self._overlay.service_names(addresses), **addresses}
            for pod in self._overlay.pods(addresses):
                volumes = materialise(self._overlay, pod, self.scratch)
                self.pods.append(RunningPod(pod, self, hosts[pod.name], volumes))
        except BaseException:
            self._network.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods:
            for prober in pod.probers:
                prober.stop()
        self._network.close()
        for pod in self.pods:
            for box in pod.boxes:
                with contextlib.suppress(OSError):
                    box.kill()

    def tick(self) -> None:
        """Advances every pod. Raises PodError."""
        for pod in self.pods:
            pod.tick()

    def delete(self, components: set[str]) -> list[Ending]:
        """Deletes the pods of these components, all at once."""
        chosen = [pod for pod in self.pods if pod.pod.labels["app.kubernetes.io/component"] in components]
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            return [ending for endings in pool.map(RunningPod.stop, chosen) for ending in endings]
