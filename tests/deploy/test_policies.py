"""Tests that each policy finds the faults it is for: one is planted in an overlay that is sound."""

from __future__ import annotations

import pytest

from tests.deploy.faults import GONE, Fault
from tests.deploy.manifests import MISSING, render, render_run
from tests.deploy.planted import kept, places, processes, schemas, targets
from tests.deploy.planted import pods as in_pods
from tests.deploy.policies.registry import POLICIES, RUN_POLICIES, findings
from tests.deploy.schemas import VERSIONS, violations
from tests.tools.refuse import needs

pytestmark = needs(MISSING)

FAULTS = [*in_pods.FAULTS, *places.FAULTS, *processes.FAULTS, *kept.FAULTS, *kept.ENDS, *kept.NUMBERS]


def _id(fault: Fault) -> str:
    return f"{fault.policy or 'schema'}-{fault.target.partition('/')[0]}-{fault.path.rpartition('.')[2] or 'gone'}"


def test_every_policy_has_a_fault():
    assert {fault.policy for fault in FAULTS} == POLICIES.keys() | RUN_POLICIES.keys()


@pytest.mark.parametrize("fault", FAULTS, ids=_id)
def test_a_planted_fault_is_found(fault):
    if fault.policy in RUN_POLICIES:
        found = RUN_POLICIES[fault.policy](fault.plant(render_run(fault.overlay)))
    else:
        found = POLICIES[fault.policy](fault.plant(render(fault.overlay)))
    assert any(fault.said in line for line in found), found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", schemas.FAULTS, ids=_id)
def test_what_kubernetes_would_refuse_is_found(fault, version):
    kind = fault.target.partition("/")[0]
    found = violations([item for item in fault.plant(render(fault.overlay)) if item["kind"] == kind], version)
    assert any(fault.said in line for line in found), found


def test_findings_name_the_policy():
    objects = Fault("", "dev", targets.GATEWAY, f"{targets.MAIN}.image", "leeway-gateway", "").plant(render("dev"))
    assert findings(objects) == [
        "images: Deployment/leeway-gateway gateway: image leeway-gateway has no version",
    ]


def test_objects_are_everybodys_own():
    """A fault that one test plants is not in the objects of the next test."""
    Fault("", "dev", "Service/leeway-gateway", "", GONE, "").plant(render("dev"))
    assert findings(render("dev")) == []
