"""The gateway of a run on this machine: its address as this machine reaches it, its token, its TLS files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.cli.run.own_gateway import own_gateway
from learner.cli.run.run_directory import RunDirectory, RunError
from tests.tools.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run").directory


def listen(run: RunDirectory, address: str, **sections: object) -> None:
    values = json.loads(run.settings.read_text())
    values["gateway"] = {**values["gateway"], "listen": address, **sections}
    run.settings.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("0.0.0.0:50051", "127.0.0.1:50051"),
        ("[::]:50051", "[::1]:50051"),
        ("10.0.0.7:50051", "10.0.0.7:50051"),
        ("host.test:50051", "host.test:50051"),
    ],
)
def test_the_address_is_one_that_this_machine_reaches(run: RunDirectory, address: str, reached: str):
    listen(run, address)
    run.secret("operator").write_text("secret\n")
    target = own_gateway(run)
    assert (target.address, target.token(), target.plain_text) == (reached, "secret", True)


def test_without_a_token_it_says_where_one_is_expected(run: RunDirectory):
    with pytest.raises(RunError, match=r"operator.token: no operator's token there; start the run again"):
        own_gateway(run)


def test_tls_of_the_workers_is_used(run: RunDirectory):
    values = json.loads(run.settings.read_text())
    values["gateway"]["tls"] = {"certificate": "/g.crt", "key": "/g.key"}
    values["rollout"]["tls"] = {"ca": "/ca.pem", "server_name": "gateway.test"}
    run.settings.write_text(json.dumps(values))
    run.secret("operator").write_text("secret\n")
    target = own_gateway(run)
    assert (target.ca, target.server_name, target.plain_text) == (Path("/ca.pem"), "gateway.test", False)
