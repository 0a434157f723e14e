"""Policy on what a run takes with it when it is deleted: nothing that holds data, and nothing that other runs use."""

from __future__ import annotations

from collections.abc import Iterator

from tests.deploy.manifests import Object

# Kinds whose deletion loses data, or that belong to the whole cluster.
_DATA = {"Namespace", "PersistentVolumeClaim", "PersistentVolume"}
_CLUSTER = {
    *("PriorityClass", "StorageClass", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"),
    *("ClusterIssuer", "ClusterQueue", "ResourceFlavor", "Topology", "WorkloadPriorityClass"),
}
_KEEP = {"argocd.argoproj.io/sync-options": "Prune=false,Delete=false", "helm.sh/resource-policy": "keep"}


def deletable(objects: list[Object]) -> list[str]:
    """Checks that nothing that is rendered with pods holds data or is the cluster's: `kubectl delete -k` is safe."""
    return [
        f"{item['kind']}/{item['metadata']['name']}: would be deleted with the run"
        for item in objects
        if item["kind"] in _DATA | _CLUSTER
    ]


def kept(objects: list[Object]) -> list[str]:
    """Checks that what holds data stays, whoever deletes what it came from: Argo CD, Helm, a StatefulSet."""
    return [
        f"{item['kind']}/{item['metadata']['name']}: {problem}" for item in objects for problem in _endangered(item)
    ]


def _endangered(item: Object) -> Iterator[str]:
    if item["kind"] in _DATA | _CLUSTER and not item["metadata"].get("annotations", {}).items() >= _KEEP.items():
        yield "Argo CD and Helm may delete it: it lacks the annotations of rendering/storage/keep.yaml"
    if item["kind"] == "StatefulSet" and item["spec"].get("volumeClaimTemplates"):
        policy = item["spec"].get("persistentVolumeClaimRetentionPolicy", {})
        if policy != {"whenDeleted": "Retain", "whenScaled": "Retain"}:
            yield "its volumes may go with it: expected persistentVolumeClaimRetentionPolicy Retain, twice"
