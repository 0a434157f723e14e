"""Commands of the deployment guide that need no cluster, run as they stand; and what those must be that need one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from learner.config.memory import checkpoint_bytes
from learner.gateway.auth import Identities
from tests.deploy.manifests import KUBERNETES, MISSING, build, render_kept, render_run
from tests.deploy.policies.deletion import deletable
from tests.deploy.test_guide import GUIDE, commands, section
from tests.deploy.workloads import named, pods
from tests.tools.refuse import refuse

_QUEUE = "kueue.x-k8s.io/queue-name"
_CLUSTER = re.compile(r"^kubectl (apply|diff|get|patch|wait|delete|-n)")
MANIFESTS = (KUBERNETES / "README.md").read_text()
# Stands for kubectl where a command would need a cluster: it notes what it was asked.
_NOTES = """#!/bin/sh
echo "$@" >> "$KUBECTL_NOTES"
"""


def lines(text: str, heading: str) -> list[str]:
    """The lines of the indented blocks below a heading, as they stand."""
    return [
        line[4:] for line in text.partition(heading)[2].partition("\n## ")[0].splitlines() if line.startswith("    ")
    ]


def run(script: list[str], directory: Path, **environment: str) -> str:
    """Runs lines by bash, ends at the first that fails, and returns what they printed."""
    done = subprocess.run(
        ["bash", "-euc", "\n".join(script)],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_overlay_of_ones_own_is_a_copy_with_another_run_env(tmp_path):
    if MISSING:
        refuse(MISSING)
    shutil.copytree(KUBERNETES, tmp_path / "deploy/kubernetes")
    script = [line for line in lines(GUIDE, "## 4. Your overlay") if not _CLUSTER.match(line)]
    assert [line.split()[0] for line in script] == ["cp", "sed", "kubectl"]
    run([line.replace("/tmp/mine.yaml", "mine.yaml") for line in script], tmp_path, REGISTRY="registry.test/mine")
    mine = tmp_path / "deploy/kubernetes/overlays/mine"
    images = {item["image"] for pod in pods(build(mine)) for item in pod.everything() if "leeway-" in item["image"]}
    assert {image.rpartition("/")[0] for image in images} == {"registry.test/mine"}
    assert "registry.test/mine/leeway-learner" in (tmp_path / "mine.yaml").read_text()
    assert build(mine / "storage")


def test_the_secrets_that_one_makes_are_those_that_a_gateway_reads(tmp_path):
    (tmp_path / "kubectl").write_text(_NOTES)
    (tmp_path / "kubectl").chmod(0o755)
    script = lines(MANIFESTS, "## Secrets that you make")
    end = next(index for index, line in enumerate(script) if "jq" in line)
    run(script[: end - 1], tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}", KUBECTL_NOTES="notes")
    notes = (tmp_path / "notes").read_text()
    identities = Identities(tmp_path / "identities.json").in_file
    assert {name: sorted(identities[name].roles) for name in identities} == {
        "local": ["submit"],
        "operator": ["operate"],
    }
    made = re.findall(r"create secret generic (leeway-[\w-]+)", notes)
    assert {"leeway-identities", "leeway-token", "leeway-redis-password", "leeway-operator"} <= set(made)


@pytest.mark.parametrize("document", [GUIDE, MANIFESTS], ids=["guide", "manifests"])
def test_everything_is_applied_on_the_servers_side(document):
    """A client-side apply drops what Kueue has put into lists of kinds that kubectl does not know."""
    applied = [command for _, command in commands(document) if re.search(r"kubectl .*\bapply\b", command)]
    assert applied
    assert [command for command in applied if "--server-side" not in command] == []


def test_namespace_and_volumes_are_applied_before_the_run():
    applied = [command for _, command in commands(GUIDE) if re.search(r"kubectl apply .*overlays/mine", command)]
    assert applied[0].endswith("overlays/mine/storage")
    assert any(command.endswith("overlays/mine") for command in applied)


def test_what_is_paused_is_resumed_by_who_decides():
    """Kueue sets back the `suspend` of a JobSet that it has admitted: its workload is stopped instead."""
    if MISSING:
        refuse(MISSING)
    paused = section(7).partition("**Pause and resume.**")[2]
    patches = re.findall(r"kubectl -n leeway patch (\S+ ?\S*) --type=merge -p \'(\{.*?\})\'", paused)
    suspended = {target for target, change in patches if "suspend" in change}
    assert suspended == {"job leeway-learner"}
    assert "leeway-learner" in named(render_run("single-node"), "Job")
    assert not named(render_run("single-node"), "LocalQueue")
    queued = named(render_run("multi-node"), "JobSet")["leeway-learner"]["metadata"]["labels"]
    assert queued["kueue.x-k8s.io/queue-name"] in named(render_run("multi-node"), "LocalQueue")
    for word in ("suspend", "active"):
        assert [f'"{word}": {value}' in paused for value in ("true", "false")] == [True, True]


def test_a_set_of_engines_that_kueue_has_admitted_is_scaled_by_way_of_zero():
    """Kueue refuses any other number of replicas of a queued StatefulSet; a label on its pods alone has no effect."""
    if MISSING:
        refuse(MISSING)
    objects = render_run("multi-node")
    queued = {
        name for name, item in named(objects, "StatefulSet").items() if _QUEUE in item["metadata"].get("labels", {})
    }
    assert queued == {"leeway-engine"}
    assert not [pod.where for pod in pods(objects) if _QUEUE in pod.labels]
    there = section(7).partition("With `components/kueue`")[2].partition("**With other data.**")[0]
    scaled = re.findall(r"kubectl -n leeway scale (statefulset/leeway-engine.*) --replicas=(\d+)", there)
    assert [int(count) > 0 for _, count in scaled] == [False, True]
    assert "wait --for=delete pod -l app.kubernetes.io/component=engine" in there


def test_the_command_that_deletes_an_overlay_takes_no_data_with_it():
    if MISSING:
        refuse(MISSING)
    assert "kubectl delete -k deploy/kubernetes/overlays/mine" in section(9)
    assert deletable(render_run("multi-node")) == []
    claims = set(named(render_kept("multi-node"), "PersistentVolumeClaim"))
    [command] = re.findall(r"delete persistentvolumeclaim (leeway[\w -]*)\n", section(9))
    assert set(command.split()) == claims


def test_a_person_asks_the_gateway_and_not_a_pod_of_it():
    """The certificate has the name under which `kubectl port-forward` leads to a gateway."""
    if MISSING:
        refuse(MISSING)
    assert "LEEWAY_GATEWAY=localhost:50051" in section(6)
    assert "localhost" in named(render_run("multi-node"), "Certificate")["leeway-gateway"]["spec"]["dnsNames"]
    assert not re.search(r"<<'?(SH|JSON)|urlopen", section(6))


def test_a_checkpoint_has_the_bytes_that_the_guide_says():
    for averaged, text in ((False, "a checkpoint: 14 P"), (True, "a checkpoint of 18 P")):
        assert text in GUIDE
        assert checkpoint_bytes(1, "bfloat16", averaged=averaged) == int(text.split()[-2])
