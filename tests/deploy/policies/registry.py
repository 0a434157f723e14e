"""List of all policies. Each is a pure function of the rendered objects that returns its findings, one line each."""

from __future__ import annotations

from collections.abc import Callable

from tests.deploy.manifests import Object
from tests.deploy.policies.agreement import agreement
from tests.deploy.policies.confinement import accounts, confined
from tests.deploy.policies.layouts import layouts
from tests.deploy.policies.lifetimes import lifetimes
from tests.deploy.policies.network import network
from tests.deploy.policies.ports import ports
from tests.deploy.policies.probes import probes
from tests.deploy.policies.queue import queue
from tests.deploy.policies.references import references
from tests.deploy.policies.resources import images, resources
from tests.deploy.policies.scaling import scaling
from tests.deploy.policies.settings import settings

Policy = Callable[[list[Object]], list[str]]
POLICIES: dict[str, Policy] = {
    policy.__name__: policy
    for policy in (
        *(confined, accounts, images, resources, probes, references, ports, network, scaling),
        *(settings, agreement, layouts, lifetimes, queue),
    )
}


def findings(objects: list[Object]) -> list[str]:
    """Returns the findings of all policies, each after the policy's name."""
    return [f"{name}: {line}" for name, policy in POLICIES.items() for line in policy(objects)]
