"""Gateways and engines that do not answer."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from learner.cli.doctor.peers import peers
from learner.cli.doctor.versions import TESTED
from rollout.data.demo_model import DemoShape, write_model
from tests.tools.doctor_site import Site, bad


def test_peers_that_do_not_answer(site: Site):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        urls = {"urls": [f"http://127.0.0.1:{port}"]}
        found = bad(peers(site.read("worker", gateway=f"127.0.0.1:{port},nonsense", engine=urls)))
    assert [one.split(":")[0] for one in found] == ["warn gateway", "fail gateway", "warn engine"]


@pytest.fixture
def sglang() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server's URL, and what it says at /model_info, which a test changes."""
    model: dict[str, Any] = {"weight_version": "default"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = {"/model_info": model, "/server_info": {"version": TESTED["sglang"][0]}}[self.path]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", model
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_of_another_model(site: Site, tmp_path: Path, sglang: tuple[str, dict[str, Any]]):
    url, says = sglang
    worker = site.read("worker", gateway="127.0.0.1:1", engine={"urls": [url]})
    others = tmp_path / "others"
    write_model(others, 0, DemoShape(layers=2, hidden=64, ffn=32))

    def engine() -> list[str]:
        return [line for line in bad(peers(worker)) if " engine: " in line]

    says |= {"model_path": str(others), "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    assert engine() == [f"fail engine: {url}: it serves {others}, whose hidden_size is 64; model = {site.model} has 32"]
    says |= {"model_path": "Qwen/Qwen2-7B", "model_type": "qwen2"}
    assert f"it serves Qwen/Qwen2-7B, whose model_type is 'qwen2'; model = {site.model} has 'qwen3'" in engine()[0]
    says |= {"model_path": "Qwen/Qwen3-8B", "model_type": "qwen3"}
    assert engine()[0].startswith(f"warn engine: {url}: serves Qwen/Qwen3-8B, type qwen3, which cannot be read here")
    says |= {"model_path": str(site.model)}
    assert engine() == []


def test_an_engine_that_wants_a_key_is_asked_with_it(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "key").write_text("secret\n")
    presented = []

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        presented.append(request.get_header("Authorization"))
        raise OSError("refused")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    engine = {"urls": ["http://127.0.0.1:9"], "key_file": str(tmp_path / "key")}
    bad(peers(site.read("worker", engine=engine)))
    assert presented == ["Bearer secret"]
