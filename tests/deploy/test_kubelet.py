"""Tests of the kubelet in this directory: failures of a pod are reported, and what a kubelet would do is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import box, network
from tests.deploy.kubelet import Node, PodError
from tests.deploy.podspec import Overlay
from tests.tools.refuse import needs

REFUSAL = box.refusal() or network.refusal()
pytestmark = needs(REFUSAL)


def overlay(script: str, init: str = "true", grace_s: int = 30, **container: Any) -> Overlay:
    """Overlay with one pod of the CPU image that runs a shell script."""
    security = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    mounts = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "file", "mountPath": "/etc/leeway/a.toml", "subPath": "a.toml"},
    ]
    common = {"image": "leeway-cpu:1", "securityContext": {"readOnlyRootFilesystem": True}, "volumeMounts": mounts}
    spec = {
        "securityContext": security,
        "terminationGracePeriodSeconds": grace_s,
        "initContainers": [{"name": "first", "command": ["sh", "-ec", init], **common}],
        "containers": [{"name": "main", "command": ["sh", "-exc", script], **common, **container}],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "file", "configMap": {"name": "settings"}}],
    }
    template = {"metadata": {"labels": {"app.kubernetes.io/component": "it"}}, "spec": spec}
    return Overlay(
        [
            {"kind": "Deployment", "metadata": {"name": "pod"}, "spec": {"template": template}},
            {"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a.toml": "a = 1\n"}},
        ]
    )


def ticked(node: Node, done: Callable[[], bool], limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline, [path.read_text() for path in (node.scratch / "logs").iterdir()]
        node.tick()
        time.sleep(0.05)


def test_a_container_has_what_its_pod_says_and_nothing_else(tmp_path: Path):
    checks = [
        "test $(id -u) = 10001 && test $(id -g) = 10001",
        'test "$(cat /etc/leeway/a.toml)" = "a = 1"',
        "! touch /etc/x 2>/dev/null && ! touch /usr/x 2>/dev/null && ! touch /opt/leeway/x 2>/dev/null",
        "test $(hostname) = pod-0 && grep -q pod-0 /etc/hosts",
        "grep -q '^CapEff:.*0000000000000000' /proc/self/status && test $$ = 1",
        "! ls /root 2>/dev/null && ! ls /var/log 2>/dev/null",
        "test -f /tmp/from-init && python -c 'import learner' && echo well",
    ]
    with Node(overlay("\n".join([*checks, "exec sleep 600"]), init="touch /tmp/from-init"), tmp_path) as node:
        log = tmp_path / "logs" / "pod-0.main.log"
        ticked(node, lambda: log.exists() and "well" in log.read_text())
        assert node.pods[0].restarts == 0


def test_a_container_that_keeps_ending_is_an_error_with_its_last_words(tmp_path: Path):
    with (
        Node(overlay("echo because; exit 3"), tmp_path) as node,
        pytest.raises(
            PodError, match=r"pod-0/main ended 6 times, now with exit status 3; its log ends:\n(.*\n)*because"
        ),
    ):
        ticked(node, lambda: False)


def test_an_init_container_that_fails_holds_the_pod_up(tmp_path: Path):
    with (
        Node(overlay("exec sleep 600", init="exit 4"), tmp_path) as node,
        pytest.raises(PodError, match="pod-0/first ended 6"),
    ):
        ticked(node, lambda: bool(node.pods[0].boxes))


def test_a_liveness_probe_that_fails_too_often_is_an_error(tmp_path: Path):
    probe = {"httpGet": {"path": "/healthz", "port": 9110}, "periodSeconds": 0.1, "failureThreshold": 3}
    ports = [{"containerPort": 9110}]
    with (
        Node(overlay("exec sleep 600", ports=ports, livenessProbe=probe), tmp_path) as node,
        pytest.raises(PodError, match="liveness GET :9110/healthz: never green, 0 passed, 3 failed"),
    ):
        ticked(node, lambda: False)


def test_probes_are_asked_from_the_node_and_in_the_container(tmp_path: Path):
    server = "exec python -m http.server 9110 --directory /etc/leeway"
    ready = {"httpGet": {"path": "/a.toml", "port": "status"}, "periodSeconds": 0.2}
    live = {"exec": {"command": ["test", "-f", "/etc/leeway/a.toml"]}, "periodSeconds": 0.2, "timeoutSeconds": 5}
    ports = [{"containerPort": 9110, "name": "status"}]
    with Node(overlay(server, ports=ports, readinessProbe=ready, livenessProbe=live), tmp_path) as node:
        ticked(node, lambda: node.pods[0].ready)


def test_deletion_is_pre_stop_then_sigterm_then_grace_then_sigkill(tmp_path: Path):
    polite = "trap 'test -f /tmp/hook && exit 7' TERM; echo up; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["touch", "/tmp/hook"]}}}
    with Node(overlay(polite, lifecycle=hook), tmp_path / "polite") as node:
        ticked(
            node, lambda: "up" in (tmp_path / "polite/logs/pod-0.main.log").read_text() if node.pods[0].boxes else False
        )
        (ending,) = node.delete({"it"})
        assert (ending.exit_code, ending.killed) == (7, False)
    deaf = "trap 'echo told' TERM; echo up; while :; do sleep 0.05; done"
    with Node(overlay(deaf, grace_s=1), tmp_path / "deaf") as node:
        ticked(
            node, lambda: "up" in (tmp_path / "deaf/logs/pod-0.main.log").read_text() if node.pods[0].boxes else False
        )
        (ending,) = node.delete({"it"})
        assert ending.killed
        assert "told" in (tmp_path / "deaf/logs/pod-0.main.log").read_text()
