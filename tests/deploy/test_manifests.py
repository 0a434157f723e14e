"""Tests that every overlay builds, fits the schemas of three Kubernetes versions and operators, and keeps all policies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from learner.cli.run.run_file import RunFile
from learner.config import GatewayConfig, LearnerConfig
from rollout.config import WorkerConfig
from rollout.data.demo_model import TOKENS
from tests.deploy.manifests import (
    ALL,
    KUBERNETES,
    MISSING,
    OVERLAYS,
    ROOT,
    BuildError,
    build,
    render,
    render_kept,
    render_run,
)
from tests.deploy.policies.processes import of_kind, processes
from tests.deploy.policies.references import documented
from tests.deploy.policies.registry import POLICIES, findings_of_run
from tests.deploy.schemas import VERSIONS, violations
from tests.deploy.workloads import named, pods
from tests.tools.refuse import needs

pytestmark = needs(MISSING)

REMOTE_DATA = """
- op: replace
  path: /spec/template/spec/containers/1/volumeMounts/2
  value: {name: state, mountPath: /var/lib/leeway-state/data, subPath: data, readOnly: true}
"""


def test_the_overlays_are_those_that_are_documented():
    assert sorted(OVERLAYS) == ["dev", "fleet-remote", "multi-node", "single-node"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_objects_fit_the_schemas(name, version):
    assert violations(render(name), version) == []


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ALL)
def test_policies_are_kept(name, policy):
    assert POLICIES[policy](render(name)) == []


@pytest.mark.parametrize("name", ["dev", "fleet-remote"])  # whose own patches change the worker's command
def test_user_code_may_be_added_to_an_overlay(name, tmp_path):
    copied = Path(shutil.copytree(KUBERNETES, tmp_path / "kubernetes")) / "overlays" / name
    overlay = yaml.safe_load((copied / "kustomization.yaml").read_text())
    overlay.setdefault("components", []).append("../../components/user-code")
    if name == "fleet-remote":  # whose data is elsewhere, as README.md says
        overlay["patches"].append({"patch": REMOTE_DATA, "target": {"kind": "StatefulSet", "name": "leeway-rollout"}})
    (copied / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    with (copied / "run" / "run.env").open("a") as file:
        file.write("user_code_image=registry.example.com/team/leeway-user-code:0.1.0\n")
    objects = build(copied)
    assert "user-code" in {item["name"] for pod in pods(objects) for item in pod.containers()}
    assert POLICIES["user_code"](objects) == []


@pytest.mark.parametrize("name", ALL)
def test_a_run_can_be_deleted_with_what_made_it(name):
    assert findings_of_run(render_run(name)) == []


@pytest.mark.parametrize("name", ALL)
def test_what_is_kept_has_no_pods(name):
    kept = render_kept(name)
    assert not pods(kept)
    assert {"Namespace", "PriorityClass", "PersistentVolumeClaim"} <= {item["kind"] for item in kept}


def test_the_kinds_of_operators_are_there():
    kinds = {item["kind"] for item in render("multi-node")}
    assert kinds >= {"ClusterQueue", "ResourceFlavor", "Topology"}
    assert "LeaderWorkerSet" in {item["kind"] for item in render("engine-groups")}
    assert kinds >= {"JobSet", "Certificate", "Issuer", "PodMonitor", "LocalQueue"}
    assert kinds >= {"PodDisruptionBudget", "NetworkPolicy", "PriorityClass", "StatefulSet"}


def test_every_component_is_in_an_overlay_or_a_variant():
    components = {path.parent for path in (KUBERNETES / "components").rglob("kustomization.yaml")}
    used = {
        (place / line.strip(" -\n").partition(" ")[0]).resolve()
        for place in ALL.values()
        for line in (place / "kustomization.yaml").read_text().splitlines()
        if "/components/" in line
    }
    assert components == used & components


def test_the_demo_needs_no_operator():
    native = {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "scheduling.k8s.io/v1"}
    assert {item["apiVersion"] for item in render("dev")} == native


def test_only_the_demo_brings_secrets():
    assert {name for name in OVERLAYS if named(render(name), "Secret")} == {"dev"}


def test_a_fleet_elsewhere_is_a_fleet_and_nothing_else():
    objects = render("fleet-remote")
    assert {pod.component for pod in pods(objects)} == {"rollout", "engine"}
    assert set(named(objects, "PersistentVolumeClaim")) == {"leeway-state"}
    maps = " ".join(str(item["data"]) for item in named(objects, "ConfigMap").values())
    assert "redis" not in maps


def test_what_a_changed_setting_reaches():
    """Generated names carry a hash, in custom kinds too: pods with old settings do not stay."""
    objects = render("multi-node")
    assert all(len(name.rpartition("-")[2]) == 10 for name in named(objects, "ConfigMap"))


def test_the_demo_is_the_demo():
    """The dev overlay's processes have the settings that `leeway up configs/demo.toml` derives, addresses and paths apart."""
    found, wrong = processes(render("dev"))
    assert not wrong
    run_file = RunFile.read(ROOT / "configs" / "demo.toml").model_copy(update={"eval": None})  # there is no evaluator
    plan = run_file.resolve("redis://leeway@leeway-redis:6379/0", "demo", len(TOKENS))
    [(_, gateway)] = of_kind(found, GatewayConfig)
    [(_, learner)] = of_kind(found, LearnerConfig)
    [(_, worker)] = of_kind(found, WorkerConfig)
    assert _essence(gateway) == _essence(plan.gateway)
    assert _essence(learner) == _essence(plan.learner)
    assert _essence(worker) == _essence(plan.workers[0])


def _essence(config) -> dict:
    """Settings without those that depend on where the process runs."""
    values = config.model_dump(mode="json", exclude={"queue", "status", "tls", "name", "run", "fleet"})
    for key in ("listen", "insecure", "gateway", "identities_file", "token_file", "stop_grace_s"):
        values.pop(key, None)
    for key in ("cache_dir", "allowed_uris"):
        values.pop(key, None)
    values.get("admission", {}).pop("max_queued_bytes", None)
    return {key: _without_paths(value) for key, value in values.items()}


def _without_paths(value):
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    return "path" if isinstance(value, str) and value.startswith("/") else value


def test_the_cron_jobs_command_is_one_of_ours():
    [pod] = [pod for pod in pods(render("external-redis")) if pod.component == "backup"]
    [container] = pod.containers()
    environment = {**os.environ, **{item["name"]: item["value"] for item in container["env"]}}
    assert container["command"] == ["leeway"]
    assert container["args"][1] == "s3://leeway-backups/run"
    command = [sys.executable, "-m", "learner.cli.app", *container["args"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    # All is understood but for the token, which is not on this machine.
    assert "/etc/leeway/operator/token" in done.stderr, done.stderr


def test_documented_secrets_are_used():
    """Every Secret in the README's table is needed by an overlay; otherwise nobody should have to make it."""
    used = {word for name in ALL for item in render(name) for pod in pods([item]) for word in _words(pod.template)}
    assert set(documented()) <= used


def _words(value) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_words, value.values()))
    if isinstance(value, list):
        return set().union(*map(_words, value))
    return {str(value)}


def test_settings_files_are_commented_toml():
    for file in KUBERNETES.glob("overlays/*/*.toml"):
        assert file.read_text().startswith("# "), file
        assert tomllib.loads(file.read_text()), file


def test_a_directory_that_does_not_build_says_so(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\n")
    with pytest.raises(BuildError, match="absent"):
        build(tmp_path)
