"""`leeway doctor`: every check sees the fault that is planted for it, and says nothing bad about a sound run."""

from __future__ import annotations

import json
import socket
import struct
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.doctor import examine, machine, model, peers, pitfalls, sharing, storage
from learner.cli.doctor import ports as ports_check
from learner.cli.doctor import versions as versions_check
from learner.cli.doctor.subject import Subject
from learner.queue.acl import COMMANDS
from learner.queue.inspect import HARMLESS
from tests.tools.doctor_site import Site, bad, run_subject
from tests.tools.runs import DEMO, REPOSITORY


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_fresh_clone_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ports_check, "require_free", lambda *_: None)  # other tests listen
    found = list(examine(DEMO, [f"run.dir={tmp_path / 'run'}"]))
    assert [one for one in found if one.state == "fail"] == []
    assert {"configuration", "ports", "redis", "model", "disk", "disk speed", "gpus", "torch", "sglang"} <= {
        one.check for one in found
    }
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_lines_or_json_and_its_status_tells(tmp_path: Path):
    path = tmp_path / "broken.toml"
    path.write_text("listen = 3\nidentities_file = 'x'\n")
    answer = CliRunner().invoke(app, ["doctor", str(path)])
    assert answer.exit_code == 1
    assert answer.output.startswith("fail  configuration")
    rows = json.loads(CliRunner().invoke(app, ["doctor", str(path), "--json"]).output)
    assert {row["state"] for row in rows} == {"fail"}
    assert any("queue is missing" in row["found"] for row in rows)


def test_the_kind_of_file_is_seen_and_what_is_none_is_refused(site: Site):
    assert [site.read(kind).kind for kind in ("gateway", "learner", "worker")] == ["gateway", "learner", "worker"]
    assert run_subject(site).kind == "run"
    (site.root / "other.toml").write_text("x = 1\n")
    assert "neither a run file" in bad(examine(site.root / "other.toml"))[0]


def test_a_port_that_is_taken_is_named(site: Site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = bad(ports_check.ports(run_subject(site, f"gateway.listen=127.0.0.1:{port}")))
    assert len(found) == 1
    assert f'fail ports: gateway.listen = "127.0.0.1:{port}"' in found[0]


def test_a_model_directory_that_is_sound(site: Site):
    assert bad(model.model(site.read("learner"))) == []
    assert sum(model.tensors_of(site.model).values()) == model.parameters(site.read("learner"))


def test_a_file_of_weights_that_was_cut_short(site: Site):
    path = next(site.model.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    assert "its header says" in bad(model.model(site.read("learner")))[0]
    path.write_bytes(struct.pack("<Q", 1 << 60))
    assert "not a safetensors file" in bad(model.model(site.read("learner")))[0]


def test_an_index_that_lists_what_no_file_has(site: Site):
    (site.model / "model.safetensors.index.json").write_text('{"weight_map": {"lost": "model-2.safetensors"}}')
    assert "lists lost in model-2.safetensors" in bad(model.model(site.read("learner")))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "gpt_oss"}, "model_type = 'gpt_oss'"), ({"vocab_size": 5}, "the tokenizer has id 1")],
)
def test_a_model_of_another_kind_or_with_anothers_tokenizer(site: Site, change: dict[str, Any], message: str):
    path = site.model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert any(message in found for found in bad(model.model(site.read("learner"))))


def test_a_model_without_a_tokenizer_and_one_that_cannot_be_cut_so(site: Site):
    found = bad(model.model(site.read("learner", parallel={"tensor": 64})))
    assert "parallel.tensor = 64 does not divide" in found[0]
    (site.model / "tokenizer.json").unlink()
    assert "no tokenizer.json" in bad(model.model(site.read("learner")))[0]


def test_the_supported_architectures_are_the_learners():
    from learner.megatron.model import architecture

    assert set(architecture._SUPPORTED) == set(model.SUPPORTED)


_Usage = namedtuple("_Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(1 << 40, ""), (1_300_000_000, "warn"), (1 << 20, "fail")])
def test_room_for_checkpoints_and_versions(site: Site, monkeypatch: pytest.MonkeyPatch, free: int, state: str):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: _Usage(1 << 41, 0, free))
    monkeypatch.setattr(storage, "write_speed", lambda _: 1e9)
    found = bad(storage.storage(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ([f"{state} disk"] if state else [])


def test_a_disk_on_which_a_checkpoint_takes_minutes(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "write_speed", lambda _: 100.0)
    found = bad(storage.storage(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ["warn disk speed"] * 2


def test_the_speed_is_measured_and_nothing_is_left(tmp_path: Path):
    assert 1e5 < storage.write_speed(tmp_path) < 1e12
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file(site: Site):
    (site.root / "checkpoints").write_text("")
    assert "checkpoints: Not a directory" in bad(storage.storage(site.read("learner")))[0]


def test_inodes_that_are_used_up(site: Site, monkeypatch: pytest.MonkeyPatch):
    full = namedtuple("_Files", "f_files f_favail")(1000, 12)
    monkeypatch.setattr(storage.os, "statvfs", lambda _: full)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: _Usage(1 << 41, 0, 1 << 40))
    assert any("12 inodes left" in one for one in bad(storage.storage(site.read("learner"))))


def test_what_the_learner_writes_the_worker_reads(site: Site):
    assert bad(sharing.sharing(site.read("learner"))) == []
    weights = (site.root / "weights").as_uri()
    path = site.root / "worker.json"
    site.read("worker")
    assert bad(sharing.sharing(Subject.read(path, weights=weights))) == []
    old = json.loads((site.root / "weights" / sharing.NONCE).read_text()) | {"time": 0}
    (site.root / "weights" / sharing.NONCE).write_text(json.dumps(old))
    assert bad(sharing.sharing(Subject.read(path, weights=weights)))[0].startswith("warn sharing")
    elsewhere = (site.root / "elsewhere").as_uri()
    assert "no doctor.json there" in bad(sharing.sharing(Subject.read(path, weights=elsewhere)))[0]


def test_an_object_store_is_written_and_read(site: Site):
    url = {"dir": site.root / "weights", "url": "memory://weights"}
    assert bad(sharing.sharing(site.read("learner", publish=url))) == []
    broken = {"dir": site.root / "weights", "url": "nosuch://weights"}
    assert "nosuch" in bad(sharing.sharing(site.read("learner", publish=broken)))[0]


@pytest.mark.parametrize(
    ("gpus", "arguments", "state"),
    [
        (0, [], "fail"),
        (1, [], "fail"),
        (4, [], "warn"),
        (5, [], ""),
        (5, ["--tp-size", "2"], "warn"),
        (6, ["--tp=2"], ""),
    ],
)
def test_gpus_against_the_layout(site: Site, monkeypatch: pytest.MonkeyPatch, gpus: int, arguments, state: str):
    monkeypatch.setattr(machine, "gpus", lambda: [f"GPU {n}: x" for n in range(gpus)])
    cuda = ["rollout.engine.device=cuda", f"rollout.engine.arguments={json.dumps(arguments)}"]
    found = [one for one in bad(machine.machine(run_subject(site, *cuda))) if " gpus:" in one]
    assert [one.split()[0] for one in found] == ([state] if state else [])


def test_a_large_model_without_gpus(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(machine, "parameters", lambda _: 8_000_000_000)
    assert "8,000,000,000 parameters" in bad(machine.machine(site.read("learner")))[0]


def test_few_descriptors_and_little_shared_memory(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (1024, 4096))
    small = namedtuple("_Room", "f_frsize f_blocks f_bavail")(4096, 16_384, 16_384)
    monkeypatch.setattr(machine.os, "statvfs", lambda _: small)
    found = bad(machine.machine(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ["warn descriptors", "warn shared memory"]


@pytest.mark.parametrize(
    ("installed", "state"),
    [("2.13.0+cpu", ""), ("2.13.0a0+nv25.11", ""), ("2.13.1", "warn"), ("2.9.0", "fail"), (None, "fail")],
)
def test_a_release_that_was_not_tested(site: Site, monkeypatch: pytest.MonkeyPatch, installed: str | None, state: str):
    real = versions_check._installed
    monkeypatch.setattr(versions_check, "_installed", lambda name: installed if name == "torch" else real(name))
    found = bad(versions_check.versions(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ([f"{state} torch"] if state else [])


def test_the_tested_releases_are_those_of_the_constraints():
    text = (REPOSITORY / "constraints.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#"))
    assert {name: pins[name] for name in versions_check.TESTED} == versions_check.TESTED


def test_packages_that_settings_ask_for(site: Site, monkeypatch: pytest.MonkeyPatch):
    real = versions_check._installed
    absent = {"wandb", "opentelemetry-exporter-otlp-proto-http"}
    monkeypatch.setattr(versions_check, "_installed", lambda name: None if name in absent else real(name))
    subject = site.read("learner", loggers=["wandb"], traces={"endpoint": "http://c:4318"})
    assert [one.split(":")[0] for one in bad(versions_check.versions(subject))] == ["fail wandb", "fail traces"]


def test_peers_that_do_not_answer(site: Site):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        urls = {"urls": [f"http://127.0.0.1:{port}"]}
        found = bad(peers.peers(site.read("worker", gateway=f"127.0.0.1:{port},nonsense", engine=urls)))
    assert [one.split(":")[0] for one in found] == ["warn gateway", "fail gateway", "warn engine"]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("learner", {"objective": {"name": "grpo"}, "max_staleness": 16}, "grpo recomputes"),
        ("learner", {"max_staleness": 0}, "fleets wait for every step"),
        ("learner", {"queue": {"url": "redis://x", "run": "r", "id_memory_s": 60}}, "taken twice"),
        ("gateway", {"insecure": True}, "plain text"),
        ("gateway", {"admission": {"lease_s": 1}}, "promises end"),
        ("worker", {"sampling": {"max_new_tokens": 64_000}}, "request_timeout_s"),
    ],
)
def test_settings_that_are_seldom_meant(site: Site, kind: str, changes: dict[str, Any], message: str):
    assert bad(pitfalls.pitfalls(site.read(kind))) == []
    (found,) = bad(pitfalls.pitfalls(site.read(kind, **changes)))
    assert message in found


def test_workers_that_ask_for_more_than_the_bound_allows(site: Site):
    (found,) = bad(pitfalls.pitfalls(run_subject(site, "rollout.requests=100")))
    assert "ask for 1600 groups at once, max_staleness lets 80 exist" in found


def test_the_objectives_that_need_no_behaviour_are_the_learners():
    from learner import objectives
    from learner.config.objective import READS, ObjectiveConfig

    free = {name for name in READS if not objectives.get(ObjectiveConfig(name=name)).needs_behaviour}
    assert free == pitfalls.BEHAVIOUR_FREE


def test_every_command_of_our_redis_user_is_tried():
    assert HARMLESS.keys() == set(COMMANDS)
    for name, words in HARMLESS.items():
        assert name.split("|")[0].upper() == words[0]
