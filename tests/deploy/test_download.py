"""deploy/kubernetes/files/download.yaml: valid, confined, and its program brings what it is told to, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy import dockerfile
from tests.deploy.dockerfile import ROOT
from tests.deploy.schemas import VERSIONS, violations

FILE = ROOT / "deploy/kubernetes/files/download.yaml"
GUIDE = (ROOT / "deploy/README.md").read_text()
JOB, POLICY = yaml.safe_load_all(FILE.read_text())
POD = JOB["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
# The hub's library, whose real one has no network here: notes its arguments, and makes the model.
HUB = """
import json, os, pathlib
def snapshot_download(repository, revision, local_dir, ignore_patterns):
    pathlib.Path(local_dir).mkdir()
    pathlib.Path(local_dir, "config.json").write_text(json.dumps([repository, revision, ignore_patterns]))
"""


def download(tmp_path: Path, source: str, name: str = "model") -> subprocess.CompletedProcess[str]:
    script = CONTAINER["args"][0].replace("/var/lib/leeway", str(tmp_path / "volume"))
    (tmp_path / "volume").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", script, source, name], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hub")},
    )  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_what_kubernetes_takes(version: str):
    assert violations([JOB, POLICY], version) == []


def test_its_pod_is_restricted_and_has_no_secret_in_its_text():
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    confined = CONTAINER["securityContext"]
    assert (confined["allowPrivilegeEscalation"], confined["capabilities"]) == (False, {"drop": ["ALL"]})
    assert not POD["automountServiceAccountToken"]
    assert all("value" not in variable for variable in CONTAINER["env"] if "TOKEN" in variable["name"])
    assert POLICY["spec"]["podSelector"]["matchLabels"].items() <= JOB["spec"]["template"]["metadata"]["labels"].items()
    assert CONTAINER["image"].partition(":")[0].removeprefix("leeway-") in dockerfile.images()


def test_a_model_of_object_storage_is_there_whole(tmp_path: Path):
    bucket = tmp_path / "bucket"
    (bucket / "sub").mkdir(parents=True)
    (bucket / "config.json").write_text("{}")
    (bucket / "sub/x.safetensors").write_text("x")
    done = download(tmp_path, bucket.as_uri())
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(tmp_path / "volume")) for path in (tmp_path / "volume").rglob("*.*")} == {
        "model/config.json", "model/sub/x.safetensors"
    }  # fmt: skip
    again = download(tmp_path, "file:///nowhere")
    assert (again.returncode, "is there already" in again.stdout) == (0, True)


def test_a_model_that_does_not_arrive_is_not_there(tmp_path: Path):
    assert download(tmp_path, (tmp_path / "nowhere").as_uri()).returncode != 0
    assert not (tmp_path / "volume/model").exists()


@pytest.mark.parametrize(("source", "revision"), [("hf://a/b", None), ("hf://a/b@v1", "v1")])
def test_a_repository_of_the_hub_and_its_revision(tmp_path: Path, source: str, revision: str | None):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/huggingface_hub.py").write_text(HUB)
    done = download(tmp_path, source)
    assert done.returncode == 0, done.stderr
    asked = json.loads((tmp_path / "volume/model/config.json").read_text())
    assert asked == ["a/b", revision, ["original/*", "*.pth", "*.gguf"]]


def test_the_guides_command_changes_image_and_source():
    command = re.search(r"^ {4}(sed -e .*?) \\\n +(deploy/\S+) \|", GUIDE, re.MULTILINE)
    assert command is not None
    done = subprocess.run(
        ["bash", "-c", f"{command[1]} {command[2]}"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True,
        env={**os.environ, "REGISTRY": "registry.example.com/team"},
    )  # fmt: skip
    container = next(yaml.safe_load_all(done.stdout))["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"registry.example.com/team/{CONTAINER['image']}"
    assert container["args"][1:] == ["hf://meta-llama/Llama-3.3-70B-Instruct", "model"]
