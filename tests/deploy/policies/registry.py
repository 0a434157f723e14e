"""List of all policies. Each is a pure function of the rendered objects that returns its findings, one line each."""

from __future__ import annotations

from collections.abc import Callable

from tests.deploy.manifests import Object
from tests.deploy.policies.agreement import agreement
from tests.deploy.policies.confinement import accounts, confined
from tests.deploy.policies.credentials import credentials
from tests.deploy.policies.deletion import deletable, kept
from tests.deploy.policies.layouts import layouts
from tests.deploy.policies.lifetimes import lifetimes
from tests.deploy.policies.network import network
from tests.deploy.policies.ports import ports
from tests.deploy.policies.probes import probes
from tests.deploy.policies.protocols import protocols
from tests.deploy.policies.queue import queue
from tests.deploy.policies.queued import queued
from tests.deploy.policies.references import references
from tests.deploy.policies.resources import images, resources
from tests.deploy.policies.scaling import scaling
from tests.deploy.policies.settings import settings
from tests.deploy.policies.timing import timing
from tests.deploy.policies.user_code import user_code

Policy = Callable[[list[Object]], list[str]]
POLICIES: dict[str, Policy] = {
    policy.__name__: policy
    for policy in (
        user_code,
        *(confined, credentials, accounts, images, resources, probes, references, ports, network, scaling),
        *(settings, agreement, layouts, lifetimes, queue, kept, queued, timing, protocols),
    )
}
# Of what is applied and deleted with a run, without its namespace, its volumes and what the cluster has for all runs.
RUN_POLICIES: dict[str, Policy] = {policy.__name__: policy for policy in (deletable,)}


def findings(objects: list[Object]) -> list[str]:
    """Returns the findings of all policies, each after the policy's name."""
    return [f"{name}: {line}" for name, policy in POLICIES.items() for line in policy(objects)]


def findings_of_run(objects: list[Object]) -> list[str]:
    """Returns the findings of the policies about what is deleted with a run, each after the policy's name."""
    return [f"{name}: {line}" for name, policy in RUN_POLICIES.items() for line in policy(objects)]
