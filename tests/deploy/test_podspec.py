"""Manifests as the kubelet reads them: variables, references, defaults, entrypoints; and refusal of what is not known."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from tests.deploy import dockerfile
from tests.deploy.podspec import Overlay, expand

CONTAINER: dict[str, Any] = {
    "name": "gateway",
    "image": "registry.example/team/leeway-gateway:0.1.0",
    "args": ["/etc/leeway/gateway.toml", "--set", "queue.url=$(URL)", "--set", "name=$(POD)-$(MISSING)-$$(URL)"],
    "env": [
        {"name": "HOST", "value": "redis"},
        {"name": "URL", "value": "redis://$(HOST):$(PORT)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
    "ports": [{"name": "grpc", "containerPort": 50051}, {"name": "status", "containerPort": 9101}],
    "livenessProbe": {"httpGet": {"path": "/healthz", "port": "status"}, "periodSeconds": 7},
    "volumeMounts": [
        {"name": "config", "mountPath": "/etc/leeway/gateway.toml", "subPath": "gateway.toml", "readOnly": True}
    ],
}
OBJECTS: list[dict[str, Any]] = [
    {
        "kind": "StatefulSet",
        "metadata": {"name": "gateway", "namespace": "leeway"},
        "spec": {
            "replicas": 2,
            "template": {
                "metadata": {"labels": {"app": "gateway"}},
                "spec": {
                    "containers": [CONTAINER],
                    "securityContext": {"runAsUser": 10001, "runAsGroup": 10002, "fsGroup": 3},
                },
            },
        },
    },
    {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": base64.b64encode(b"hidden").decode()}},
]
SERVICE = {
    "kind": "Service",
    "metadata": {"name": "front", "namespace": "leeway"},
    "spec": {"selector": {"app": "gateway"}, "ports": [{"port": 50051, "targetPort": "grpc"}]},
}


def container(**changes: Any):
    objects = copy.deepcopy(OBJECTS)
    objects[0]["spec"]["template"]["spec"]["containers"][0].update(changes)
    return overlay_pods(objects)[1].containers[0]


def overlay_pods(objects: list[dict[str, Any]]):
    return Overlay(objects).pods({"gateway-0": "10.0.0.1", "gateway-1": "10.0.0.2"})


def test_variables_are_expanded_as_the_kubelet_does():
    assert expand("$(A) $(B) $$(A) $A", {"A": "1"}) == "1 $(B) $(A) $A"


def test_a_command_is_the_images_entrypoint_and_the_manifests_arguments():
    entrypoint = dockerfile.read("gateway").entrypoint
    assert container().command == [
        *entrypoint,
        *("/etc/leeway/gateway.toml", "--set", "queue.url=redis://redis:$(PORT)"),  # PORT is defined nowhere
        *("--set", "name=gateway-1-$(MISSING)-$(URL)"),
    ]


def test_a_manifests_command_leaves_out_the_images_arguments():
    made = container(command=["sleep"])
    assert made.command[:2] == ["sleep", "/etc/leeway/gateway.toml"]
    objects = copy.deepcopy(OBJECTS)
    del objects[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert overlay_pods(objects)[0].containers[0].command == dockerfile.read("gateway").command


def test_the_environment_is_the_images_and_the_manifests():
    environment = container().environment
    assert environment["PATH"].startswith("/opt/leeway/bin:/usr/local/sbin")
    assert environment["HOME"] == "/tmp"
    assert (environment["POD"], environment["INDEX"], environment["SECRET"]) == ("gateway-1", "1", "hidden")


def test_a_probe_has_the_ports_number_and_the_kubelets_defaults():
    (probe,) = container().probes
    assert probe.check == {"httpGet": {"path": "/healthz", "port": 9101}}
    assert (probe.period_s, probe.timeout_s, probe.failures, probe.delay_s) == (7, 1, 3, 0)


def test_users_and_groups_are_the_pods_unless_the_container_says_otherwise():
    made = container(securityContext={"runAsUser": 7, "readOnlyRootFilesystem": True})
    assert (made.user, made.group, made.file_group, made.read_only) == (7, 10002, 3, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"livenessProbe": {"httpGet": {"path": "/", "port": "metrics"}}},
            "port metrics is none of the container's ports",
        ),
        ({"readinessProbe": {"grpc": {"port": 1}}}, "a readiness probe of a kind that is not known here"),
        ({"image": "busybox:1.36", "args": []}, "nothing to run: busybox:1.36 is not an image of ours"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k"}}}]}, "no Secret gone"),
    ],
)
def test_what_a_kubelet_could_not_run_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        container(**changes)


def test_a_service_is_its_one_pods_address():
    addresses = {"gateway-0": "10.0.0.1"}
    objects = copy.deepcopy([*OBJECTS, SERVICE])
    objects[0]["spec"]["replicas"] = 1
    names = Overlay(objects).service_names(addresses)
    assert names == dict.fromkeys(
        ("front", "front.leeway", "front.leeway.svc", "front.leeway.svc.cluster.local"), "10.0.0.1"
    )


def test_a_service_that_would_have_to_choose_or_translate_is_refused():
    addresses = {"gateway-0": "10.0.0.1", "gateway-1": "10.0.0.2"}
    with pytest.raises(ValueError, match="service front: 2 pods, and no proxy here"):
        Overlay([*OBJECTS, SERVICE]).service_names(addresses)
    objects = copy.deepcopy([*OBJECTS, SERVICE])
    objects[0]["spec"]["replicas"] = 1
    objects[-1]["spec"]["ports"][0]["port"] = 80
    with pytest.raises(ValueError, match="port 80 is not its target's grpc"):
        Overlay(objects).service_names(addresses)
