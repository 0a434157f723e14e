"""The gateway of a run in progress on this machine, and the token that its operator has there."""

from __future__ import annotations

import ipaddress

from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.gateway.operator_target import Target

OPERATOR = "operator"  # the identity with which commands operate the runs of this machine


def own_gateway(run: RunDirectory) -> Target:
    """The gateway of a run in progress on this machine, with the token that `leeway up` has issued for its operator.

    Raises:
        RunError: there is no such token.
        SettingsError: run.json is damaged.
    """
    token = run.secret(OPERATOR)
    if not token.is_file():
        raise RunError(f"{token}: no operator's token there; start the run again with leeway up {run.root} --resume")
    run_file = RunFile.read(run.root)
    tls = run_file.rollout.tls
    return Target(
        _reachable(run_file.gateway.listen),
        token,
        ca=tls.ca if tls else None,
        certificate=tls.certificate if tls else None,
        key=tls.key if tls else None,
        server_name=tls.server_name if tls else None,
        insecure=tls is None,  # the traffic stays on this machine, whatever the address
    )


def _reachable(listen: str) -> str:
    """The address at which this machine reaches what listens on ``listen``."""
    host, _, port = listen.rpartition(":")
    try:
        everywhere = ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        everywhere = False
    return f"{'[::1]' if ':' in host else '127.0.0.1'}:{port}" if everywhere else listen
