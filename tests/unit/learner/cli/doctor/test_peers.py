"""Gateways and engines that do not answer."""

from __future__ import annotations

import socket

from learner.cli.doctor.peers import peers
from tests.tools.doctor_site import Site, bad


def test_peers_that_do_not_answer(site: Site):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        urls = {"urls": [f"http://127.0.0.1:{port}"]}
        found = bad(peers(site.read("worker", gateway=f"127.0.0.1:{port},nonsense", engine=urls)))
    assert [one.split(":")[0] for one in found] == ["warn gateway", "fail gateway", "warn engine"]
