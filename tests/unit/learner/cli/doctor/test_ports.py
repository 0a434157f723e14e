"""An address that is in use is reported with the setting that names it."""

from __future__ import annotations

import socket

from learner.cli.doctor.ports import ports
from tests.tools.doctor_site import Site, bad, examined_run


def test_a_port_that_is_taken_is_named(site: Site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = bad(ports(examined_run(site, f"gateway.listen=127.0.0.1:{port}")))
    assert len(found) == 1
    assert f'fail ports: gateway.listen = "127.0.0.1:{port}"' in found[0]
