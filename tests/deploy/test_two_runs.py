"""Two runs in two namespaces: run.env is all that sets them apart, and they share nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.manifests import KUBERNETES, MISSING, Object, build
from tests.deploy.policies.registry import findings, findings_of_run
from tests.deploy.workloads import Pod, named, pods, selects
from tests.tools.refuse import needs

pytestmark = needs(MISSING)

# Another run of multi-node: what its admin writes into run.env, and nothing else.
OTHER = {
    "namespace": "tokyo",
    "run": "llama-b",
    "gateway_image": "registry.test:5000/b/leeway-gateway@sha256:" + "1" * 64,
    "learner_image": "registry.test:5000/b/leeway-learner:9.9.1",
    "rollout_image": "registry.test:5000/b/leeway-rollout:9.9.2",
    "storage_class": "fast-b",
    "shared_storage_class": "wide-b",
    "queue": "tokyo-gpus",
    "gateway_host": "b.example.org",
    "gateway_clients": "198.51.100.0/24",
    "weights_url": "s3://bucket-b/llama-b",
}
_OURS = {"leeway-gateway", "leeway-learner", "leeway-rollout"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Path:
    """The manifests, with a copy of overlays/multi-node whose run.env alone is another."""
    root = tmp_path_factory.mktemp("two") / "kubernetes"
    shutil.copytree(KUBERNETES, root)
    shutil.copytree(root / "overlays/multi-node", root / "overlays/other")
    facts = root / "overlays/other/run/run.env"
    assert {line.partition("=")[0] for line in facts.read_text().splitlines() if not line.startswith("#")} == set(OTHER)
    facts.write_text("".join(f"{name}={value}\n" for name, value in OTHER.items()))
    return root


@pytest.fixture(scope="module")
def first(copies: Path) -> list[Object]:
    return _with_storage(copies / "overlays/multi-node")


@pytest.fixture(scope="module")
def second(copies: Path) -> list[Object]:
    return _with_storage(copies / "overlays/other")


def _with_storage(overlay: Path) -> list[Object]:
    return build(overlay / "storage") + build(overlay)


def test_every_fact_of_run_env_is_in_the_objects(second: list[Object]):
    text = str(second)
    assert {name for name, value in OTHER.items() if value not in text} == set()


def test_nothing_of_the_first_run_is_left_in_the_second(first: list[Object], second: list[Object]):
    namespaces = {item["metadata"].get("namespace") for item in second if item["kind"] != "Namespace"}
    assert namespaces == {"tokyo"}
    assert {item["metadata"]["name"] for item in second if item["kind"] == "Namespace"} == {"tokyo"}
    assert {pod.labels["leeway.dev/run"] for pod in pods(second)} == {"llama-b"}
    assert {pod.labels["leeway.dev/run"] for pod in pods(first)} == {"multi-node"}
    images = {item["image"] for pod in pods(second) for item in pod.everything()}
    ours = {image for image in images if image.rpartition("/")[2].partition("@")[0].partition(":")[0] in _OURS}
    assert ours == {OTHER[name] for name in ("gateway_image", "learner_image", "rollout_image")}
    words = (" example.com", "multi-node", "203.0.113.0", "leeway-weights/run", ".leeway.svc", "registry.example")
    assert [word for word in words if word.strip() in str(second)] == []


def test_they_share_no_object(first: list[Object], second: list[Object]):
    assert not {_identity(item) for item in first} & {_identity(item) for item in second}
    scopes = [item["kind"] for item in second if "namespace" not in item["metadata"]]
    assert scopes == ["Namespace"], "cluster-scoped"


def _identity(item: Object) -> tuple[str | None, ...]:
    return item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]


def test_they_share_no_name_in_certificates_but_the_short_ones_and_no_volume(first: list[Object], second: list[Object]):
    """A name without a namespace is looked up in the caller's own."""
    shared = _names(first) & _names(second)
    assert shared <= {*named(second, "Service"), "localhost"}
    assert _names(second) - shared >= {"leeway-gateway.tokyo.svc", "leeway-redis.tokyo.svc", "b.example.org"}
    claims = [
        {(item["metadata"]["namespace"], name) for item in objects for name in _claims(item)}
        for objects in (first, second)
    ]
    assert len(claims[0]) >= 2
    assert not claims[0] & claims[1]


def _names(objects: list[Object]) -> set[str]:
    return {name for item in named(objects, "Certificate").values() for name in item["spec"].get("dnsNames", [])}


def _claims(item: Object) -> set[str]:
    own = {claim["metadata"]["name"] for claim in item.get("spec", {}).get("volumeClaimTemplates", [])}
    return own | ({item["metadata"]["name"]} if item["kind"] == "PersistentVolumeClaim" else set())


def test_no_selector_and_no_network_policy_reaches_the_other_run(first: list[Object], second: list[Object]):
    spaces = {"leeway", "tokyo"}
    for objects, others in ((first, second), (second, first)):
        for item in objects:
            for selector in _namespace_selectors(item):
                assert not [space for space in spaces if selects(selector, {"kubernetes.io/metadata.name": space})], (
                    item
                )
        for policy in named(objects, "NetworkPolicy").values():
            for other in pods(others):
                assert not _lets_in(policy, other), (policy["metadata"]["name"], other.where)


def _namespace_selectors(value: object) -> list[Object]:
    if isinstance(value, list):
        return [found for item in value for found in _namespace_selectors(item)]
    if not isinstance(value, dict):
        return []
    own = [value["namespaceSelector"]] if "namespaceSelector" in value else []
    return own + [found for item in value.values() for found in _namespace_selectors(item)]


def _lets_in(policy: Object, other: Pod) -> bool:
    """Whether a rule of the policy is about the pod of another namespace: peers without a namespaceSelector are not."""
    space = {"kubernetes.io/metadata.name": other.owner["metadata"]["namespace"]}
    rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
    peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
    return policy["metadata"]["namespace"] == other.owner["metadata"]["namespace"] or any(
        selects(peer["namespaceSelector"], space) for peer in peers if "namespaceSelector" in peer
    )


def test_the_second_run_keeps_every_policy(copies: Path, second: list[Object]):
    kept = build(copies / "cluster") + build(copies / "cluster/kueue")
    for item in named(kept, "ClusterQueue").values():
        item["metadata"]["name"] = OTHER["queue"]
    assert findings(kept + second) == []
    assert findings_of_run(build(copies / "overlays/other")) == []
