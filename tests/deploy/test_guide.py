"""deploy/README.md: what it names exists, and its worked numbers are what its formulas give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from learner.cli.app import app
from tests.deploy import dockerfile
from tests.deploy.dockerfile import ROOT
from tests.deploy.manifests import MISSING, render
from tests.deploy.schemas import VERSIONS
from tests.tools import memory_table
from tests.tools.refuse import refuse

GUIDE = (ROOT / "deploy" / "README.md").read_text()
CODE = "\n".join(line for line in GUIDE.splitlines() if line.startswith("    "))
KINDS = {"deployment": "Deployment", "deploy": "Deployment", "statefulset": "StatefulSet", "jobset": "JobSet"}
P70 = 70.6e9  # parameters
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "BENCHMARKS.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
    *(path for path in sorted((ROOT / "deploy" / "kubernetes").rglob("*.yaml")) if "kubectl" in path.read_text()),
]
DELETES_DATA = "Delete the data"  # the heading of the only section that may
DESTROYS = re.compile(
    r"\bdelete\b.*(?:\s-k\b|\s--kustomize\b|\s-R?f\b|\s--filename\b|\s--all\b"
    r"|\b(?:ns|namespaces?|pvc?|persistentvolume(?:claim)?s?|priorityclass(?:es)?|pc)\b(?!=))",
    re.IGNORECASE,
)
WORKLOAD = re.compile(r"delete (job|jobset|leaderworkerset|statefulset|deployment)s?\b")


@pytest.fixture(scope="module")
def objects() -> list[dict]:
    if MISSING:
        refuse(MISSING)
    return render("multi-node")


def test_every_file_that_it_names_exists():
    named = set(
        re.findall(
            r"(?:deploy|tests|overlays|components|base|docker|kubernetes|prometheus|grafana)/[\w./*-]+[\w*]", GUIDE
        )
    )
    assert len(named) > 15
    for name in (name for name in named if "/mine" not in name and not name.startswith("deploy/leeway-")):
        places = (ROOT, ROOT / "deploy", ROOT / "deploy" / "kubernetes")
        module = ROOT / f"{name.replace('.', '/')}.py"
        assert any(list(place.glob(name)) for place in places) or module.exists(), f"{name} does not exist"
    for name in re.findall(r"`([\w-]+\.md)`", GUIDE):
        assert (ROOT / "deploy" / name).exists() or (ROOT / name).exists(), f"{name} does not exist"


def test_every_command_of_ours_exists():
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"leeway (doctor|ledger|fleet|policy|up|status)\b", GUIDE)) <= known
    for module in re.findall(r"python -m ([\w.]+)", GUIDE):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"no module {module}"


def section(number: int) -> str:
    """Text of a section of the guide."""
    return GUIDE.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


@pytest.mark.parametrize("number", [2, 3, 5])
def test_what_it_applies_it_applies_on_the_server(number: int):
    assert client_side(section(number)) == []


def client_side(text: str) -> list[str]:
    """Commands of a text that would apply on the client's side: refused for large CRDs, and a fight with Kueue."""
    found = re.findall(r"^ {4}.*?kubectl [^\n|]*\bapply\b[^\n]*", text, re.MULTILINE)
    return [command for command in found if "--server-side" not in command]


def test_a_command_that_applies_on_the_clients_side_is_found():
    assert client_side(
        "    kubectl apply -f x.yaml\n    sed x | kubectl -n a apply -f -\n    kubectl apply --server-side -f y"
    ) == [
        "    kubectl apply -f x.yaml",
        "    sed x | kubectl -n a apply -f -",
    ]


def test_it_says_what_the_cluster_needs():
    needs = section(2)
    assert f"| Kubernetes | {min(VERSIONS)} or newer" in needs
    for words in ("NVIDIA", "NetworkPolicy", "ReadWriteMany", "metrics-server", "imagePullSecrets", "fsync"):
        assert words in needs, words
    for mount in ("s3fs", "goofys", "rclone", "Mountpoint for S3", "gcsfuse", "blobfuse"):
        assert mount in needs, f"{mount} is not excluded by name"


def test_it_names_the_only_place_that_has_the_clusters_domain():
    holding = [path for path in (ROOT / "deploy").rglob("*.y*ml") if "cluster.local" in path.read_text()]
    assert [path.parent.name for path in holding] == ["learner-nodes"]
    assert holding[0].read_text().count("cluster.local") == 1
    assert "`--rdzv-endpoint` (`learner-nodes`)" in section(2)


def test_its_prometheus_scrapes_what_it_did_not_make_itself():
    commands_ = " ".join(line for line in section(2).splitlines() if line.startswith("    "))
    assert "bundle.yaml" not in commands_, "the operator alone has no Prometheus object"
    for selector in ("podMonitorSelectorNilUsesHelmValues=false", "ruleSelectorNilUsesHelmValues=false"):
        assert selector in commands_


def test_no_model_goes_through_kubectl_cp():
    copied = re.findall(r"kubectl (?:-n \S+ )?cp (\S+) ", GUIDE)
    assert copied == ["data"]


def test_its_images_are_those_that_can_be_built():
    built = re.search(r"for image in ([\w ]+);", GUIDE)
    assert built is not None
    assert set(built[1].split()) < set(dockerfile.images())
    for image in dockerfile.images():
        row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `leeway-{image}`"))
        assert f"`{dockerfile.read(image).final.base}`" in row


def test_the_objects_that_its_commands_name_are_in_the_overlay(objects: list[dict]):
    names = {(found["kind"], found["metadata"]["name"]) for found in objects}
    asked = re.findall(r"\b(deployment|deploy|statefulset|jobset|leaderworkerset)[/ ](leeway-[\w-]+)", CODE)
    assert len(asked) > 4
    for kind, name in asked:
        assert (KINDS.get(kind, "LeaderWorkerSet"), name) in names, f"{kind}/{name}"
    jobset = next(found for found in objects if found["kind"] == "JobSet")
    job = f"{jobset['metadata']['name']}-{jobset['spec']['replicatedJobs'][0]['name']}-0"
    assert set(re.findall(r"jobs/([\w-]+)", CODE)) == {job}
    secrets = set(re.findall(r"leeway-[\w-]+", CODE.partition("get secret ")[2].partition("\n")[0]))
    assert secrets == set(
        re.findall(
            r"leeway-(?:identities|token|engine-key|redis-password|object-storage-(?:read|write))\b", str(objects)
        )
    )


def test_its_times_and_sizes_are_the_overlays(objects: list[dict]):
    jobset = next(found for found in objects if found["kind"] == "JobSet")
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    shutdown = next(word for word in pod["containers"][0]["args"] if word.startswith("--shutdown-timeout="))
    settings = (ROOT / "deploy/kubernetes/overlays/multi-node/learner.toml").read_text()
    grace = re.search(r"stop_grace_s = (\d+)", settings)
    assert grace is not None
    times = f"({grace[1]} < {shutdown.partition('=')[2]} < {pod['terminationGracePeriodSeconds']} s in multi-node)"
    assert times in GUIDE


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_command_deletes_data_outside_the_section_that_says_so(document: Path):
    for heading, command in commands(document.read_text()):
        assert DELETES_DATA in heading or not DESTROYS.search(command), f"{document}, {heading}: {command}"


def test_the_section_that_deletes_data_is_the_last_one_and_warns():
    sections = re.split(r"^## ", GUIDE, flags=re.MULTILINE)
    assert [DELETES_DATA in section.partition("\n")[0] for section in sections[1:]] == [False] * 8 + [True]
    assert "**This cannot be undone.**" in sections[-1]


@pytest.mark.parametrize(
    "command",
    [
        "kubectl delete -k deploy/kubernetes/overlays/mine",
        "kubectl -n leeway delete --kustomize overlays/mine",
        "kubectl kustomize overlays/mine | kubectl delete -f -",
        "kubectl delete ns leeway",
        "kubectl delete namespace/leeway",
        "kubectl -n leeway delete pvc leeway",
        "kubectl -n leeway delete persistentvolumeclaims --all",
        "kubectl delete priorityclass leeway-learner",
    ],
)
def test_a_command_that_deletes_data_is_recognised(command: str):
    assert DESTROYS.search(command)


@pytest.mark.parametrize(
    ("document", "overlays"), [("README.md", ["multi-node"]), ("kubernetes/README.md", ["dev", "single-node"])]
)
def test_a_workload_is_deleted_by_a_label_of_it_and_its_pods_are_awaited(document: str, overlays: list[str]):
    if MISSING:
        refuse(MISSING)
    found = [command for _, command in commands((ROOT / "deploy" / document).read_text())]
    deleted = [(index, match[1]) for index, command in enumerate(found) if (match := WORKLOAD.search(command))]
    assert len(deleted) >= 4
    for index, kind in deleted:
        label = found[index].partition("-l app.kubernetes.io/component=")[2].partition(" ")[0]
        assert "--cascade=foreground" in found[index], found[index]
        wait = rf"wait --for=delete pod -l app.kubernetes.io/component={label} --timeout=(\d+)s"
        limit = re.search(wait, found[index + 1])
        assert limit is not None, f"{found[index]} is followed by {found[index + 1]}"
        for overlay in overlays:
            if (overlay, label) == ("dev", "engine"):  # its worker starts the engine itself
                continue
            grace = grace_s(render(overlay), kind, label)
            assert grace < int(limit[1]), f"{overlay}: {kind} {label} may take {grace} s to end"


def commands(text: str) -> list[tuple[str, str]]:
    """Commands of a document's indented or fenced blocks and of a manifest's comments, each with the heading above it."""
    found, heading, fenced = [], "", False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("## "):
            heading = line
        elif fenced or line.startswith(("    ", "#    ")):
            found.append((heading, line.strip("# ")))
    return found


def grace_s(objects: list[dict], kind: str, component: str) -> int:
    """The longest grace period of the pods of the workload of this kind that has the component's label."""
    labelled = [
        found
        for found in objects
        if found["kind"].lower() == kind and found["metadata"]["labels"].get("app.kubernetes.io/component") == component
    ]
    assert labelled, f"no {kind} has the label {component}"
    return max(int(grace) for grace in re.findall(r"'terminationGracePeriodSeconds': (\d+)", str(labelled)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (128 * 9 * 4 * (500 + 8 * 4000) * 1.3 * 1e3, "= 195 MB"),
        (32 * 1.3 * 1e9, "32 GB x 1.3 = 41.6 GB"),
        (2 * P70 * 4 / 420, "70B, 4 nodes, 420 s: 1.3 GB/s"),
        (18 * P70 / (10 * 420), "every 10 steps of 420 s: 0.30 GB/s"),
        (18 * P70 / (860 - 420), "wants 2.9 GB/s"),
    ],
)
def test_its_worked_numbers_are_what_its_formulas_give(value: float, text: str):
    assert text in GUIDE
    shown = [float(number) for number in re.findall(r"(\d+(?:\.\d+)?)\*{0,2} (?:GB|MB|TB)", text)]
    assert any(abs(value / 1e9 - number) <= 0.051 * number for number in shown), (value / 1e9, shown)


def test_its_sizes_are_what_the_doctor_computes():
    assert memory_table.table() in GUIDE, "run `python -m tests.tools.memory_table --write`"


def test_its_formulas_by_hand_are_about_what_is_computed():
    for column, ways, gpus in zip(memory_table.COLUMNS, (4, 16, 32, 16), (4, 16, 32, 32), strict=True):
        parameters, rank = memory_table.parameter_count(column.config), column.rank("full")
        by_hand = (6 * parameters / ways, 12 * parameters / gpus)
        assert (rank.weights + rank.gradients, rank.optimizer) == pytest.approx(by_hand, rel=0.05)
        assert rank.update == 0  # the fused AdamW keeps nothing more


def test_the_readme_of_the_manifests_is_where_it_says():
    assert Path(ROOT / "deploy/kubernetes/README.md").read_text().count("What you have to set") == 1
