"""`leeway doctor`: every check sees the fault that is planted for it, and says nothing bad about a sound run."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.doctor import Finding, credentials, examine, machine, model, peers, pitfalls, sharing, storage
from learner.cli.doctor import ports as ports_check
from learner.cli.doctor import versions as versions_check
from learner.cli.doctor.certificates import certificates
from learner.cli.doctor.subject import Subject
from learner.queue.acl import COMMANDS
from learner.queue.inspect import HARMLESS
from rollout.model import Shape, write_model
from tests.service.certificates import Authority
from tests.unit.runs import DEMO, REPOSITORY

TOKEN = "secret"
MODEL = Shape(layers=2, hidden=32, ffn=32)


def bad(findings: Iterator[Finding]) -> list[str]:
    """What is not ok, as ``state check: found``."""
    return [f"{one.state} {one.check}: {one.found}" for one in findings if one.state != "ok"]


class Site:
    """Files of each process, as a container has them; every one sound until a test changes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = Authority(root / "tls")
        self.model = root / "model"
        write_model(self.model, 0, MODEL)
        self.identities({"tokyo": {"tokens": [hashlib.sha256(TOKEN.encode()).hexdigest()]}})
        self.secret("token", TOKEN)

    def identities(self, fleets: Any) -> None:
        (self.root / "identities.json").write_text(json.dumps(fleets))

    def secret(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def read(self, kind: str, *overrides: str, **changes: Any) -> Subject:
        path = self.root / f"{kind}.json"
        path.write_text(json.dumps({**getattr(self, f"_{kind}")(), **changes}, default=str))
        return Subject.read(path, overrides)

    def _gateway(self) -> dict[str, Any]:
        return {
            "listen": "127.0.0.1:0",
            "identities_file": self.root / "identities.json",
            "queue": {"url": "redis://127.0.0.1:1/0", "run": "r"},
            "limits": {"vocab_size": 13},
        }

    def _learner(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "queue": {"url": "redis://127.0.0.1:1/0", "run": "r"},
            "steps": 10,
            "checkpoint": {"dir": self.root / "checkpoints"},
            "publish": {"dir": self.root / "weights"},
            "metrics_dir": self.root / "metrics",
        }

    def _worker(self) -> dict[str, Any]:
        return {
            "gateway": "127.0.0.1:1",
            "token_file": self.root / "token",
            "model": self.model,
            "state_dir": self.root / "state",
            "log_dir": self.root / "logs",
        }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def run_subject(site: Site, *overrides: str) -> Subject:
    return Subject.read(DEMO, [f"run.dir={site.root / 'run'}", "run.status_port=0", *overrides])


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


@pytest.mark.parametrize(
    ("fleets", "message"),
    [
        ("[1", "not valid JSON"),
        ({"a": {"tokens": ["short"]}}, "a.tokens.0"),
        ({"a": {"roles": ["operate"]}}, "no fleet may submit"),
        ({}, "no fleet may submit"),
    ],
)
def test_identities_that_no_gateway_could_use(site: Site, fleets: Any, message: str):
    if isinstance(fleets, str):
        (site.root / "identities.json").write_text(fleets)
    else:
        site.identities(fleets)
    (found,) = bad(credentials.credentials(site.read("gateway")))
    assert found.startswith("fail identities")
    assert message in found


@pytest.mark.parametrize(
    ("token", "message"), [("", "is empty"), ("two words", "more than one word"), (None, "No such")]
)
def test_a_token_file_that_holds_no_token(site: Site, token: str | None, message: str):
    if token is None:
        (site.root / "token").unlink()
    else:
        site.secret("token", token)
    assert message in bad(credentials.credentials(site.read("worker")))[0]


def test_a_token_that_the_gateway_does_not_know_and_one_that_it_does(site: Site):
    gateway, worker = site.read("gateway"), site.read("worker")
    both = Subject("run", gateway.gateway, None, worker.workers)
    assert bad(credentials.credentials(both)) == []
    site.secret("token", "another")
    assert bad(credentials.credentials(both)) == [f"fail token: {site.root}/token: unknown token (for the gateway)"]


def test_a_secret_that_everybody_may_read(site: Site):
    site.secret("token", TOKEN, mode=0o644)
    assert bad(credentials.credentials(site.read("worker"))) == [
        f"warn permissions: {site.root}/token: mode 0644, every user may read it"
    ]


def tls_pair(site: Site, *sans: str, days: float = 90, authority: Authority | None = None) -> dict[str, Path]:
    pair = (authority or site.authority).issue(f"pair-{len(list(site.root.rglob('*.crt')))}", *sans, days=days)
    pair.key.chmod(0o600)
    return {"certificate": pair.certificate, "key": pair.key}


@pytest.mark.parametrize(
    ("days", "state", "message"), [(90, "", ""), (3, "warn", "3 days left"), (-1, "fail", "expired")]
)
def test_the_dates_of_a_certificate(site: Site, days: float, state: str, message: str):
    found = bad(certificates(site.read("gateway", tls=tls_pair(site, "gateway", days=days))))
    assert [one.split()[0] for one in found] == ([state] if state else [])
    assert all(message in one for one in found)


def test_a_key_of_another_certificate_and_a_file_that_is_missing(site: Site):
    one, other = tls_pair(site, "gateway"), tls_pair(site, "gateway")
    mixed = {"certificate": one["certificate"], "key": other["key"]}
    assert "KEY_VALUES_MISMATCH" in bad(certificates(site.read("gateway", tls=mixed)))[0]
    gone = {"certificate": one["certificate"], "key": site.root / "gone"}
    assert "No such file" in bad(certificates(site.read("gateway", tls=gone)))[0]


def between(site: Site, server: dict[str, Any], client: dict[str, Any]) -> list[str]:
    gateway = site.read("gateway", tls=server).gateway
    worker = site.read("worker", gateway="gateway.example:50051", tls=client).workers
    return bad(certificates(Subject("run", gateway, None, worker)))


def test_a_gateway_and_a_worker_that_trust_each_other(site: Site):
    server = {**tls_pair(site, "gateway.example"), "client_ca": site.authority.certificate}
    client = {**tls_pair(site, "spiffe://fleets/tokyo"), "ca": site.authority.certificate}
    site.identities({"tokyo": {"sans": ["spiffe://fleets/tokyo"]}})
    assert between(site, server, client) == []


def test_a_certificate_for_another_name_and_one_of_a_stranger(site: Site):
    client = {"ca": site.authority.certificate}
    assert "gateway.example" in between(site, tls_pair(site, "elsewhere"), client)[0]
    stranger = Authority(site.root / "stranger", "stranger")
    assert "issuer" in between(site, tls_pair(site, "gateway.example", authority=stranger), client)[0]
    server = {**tls_pair(site, "gateway.example"), "client_ca": stranger.certificate}
    assert len(between(site, server, {**client, **tls_pair(site, "tokyo")})) == 1


def test_a_client_certificate_that_is_no_fleets(site: Site):
    server = {**tls_pair(site, "gateway.example"), "client_ca": site.authority.certificate}
    gateway = site.read("gateway", tls=server).gateway
    client = {**tls_pair(site, "unknown.example"), "ca": site.authority.certificate}
    worker = site.read("worker", gateway="gateway.example:50051", tls=client, token_file=None).workers
    (found,) = bad(certificates(Subject("run", gateway, None, worker)))
    assert "unknown.example" in found


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
    from learner.megatron import architecture

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
    from learner.objective_config import READS, ObjectiveConfig

    free = {name for name in READS if not objectives.get(ObjectiveConfig(name=name)).needs_behaviour}
    assert free == pitfalls.BEHAVIOUR_FREE


def test_every_command_of_our_redis_user_is_tried():
    assert HARMLESS.keys() == set(COMMANDS)
    for name, words in HARMLESS.items():
        assert name.split("|")[0].upper() == words[0]
