"""Settings that every group would fail by, found without a prompt."""

from __future__ import annotations

import json

import pytest

from learner.cli.preflight.limits import limits
from learner.cli.preflight.network import network
from tests.tools.doctor_site import Site, bad, examined_run


def found(site: Site, *overrides: str) -> list[str]:
    examined = examined_run(site, *overrides)
    return bad(limits(examined, network(examined)))


def test_the_demo_has_none(site: Site):
    assert found(site) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.micro_batch_tokens=7"], "fail micro-batch: learner.micro_batch_tokens = 7 is below"),
        (["rollout.sampling.temperature=20"], "fail sampling: rollout.sampling.temperature = 20 is outside"),
        (["rollout.sampling.max_new_tokens=64"], "fail context: rollout.sampling.max_new_tokens = 64 leaves no room"),
        (["rollout.engine.arguments=['--context-length', '7']"], "the engine reads 7 tokens"),
        (["rollout.engine.arguments=['--context-length=7']"], "the engine reads 7 tokens"),
    ],
)
def test_a_setting_by_which_nothing_would_be_trained(site: Site, overrides: list[str], message: str):
    (only,) = found(site, *overrides)
    assert message in only


def test_the_engine_multiplies_the_context_by_the_factor_of_linear_scaling(site: Site):
    path = site.model / "config.json"
    config = json.loads(path.read_text()) | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    path.write_text(json.dumps(config))
    context = 2 * config["max_position_embeddings"]
    (only,) = found(site, f"model.path={site.model}", f"rollout.sampling.max_new_tokens={context}")
    assert f"the engine reads {context} tokens" in only


def test_the_smallest_and_the_largest_that_work(site: Site):
    assert found(site, "learner.micro_batch_tokens=8") == []
    assert found(site, "rollout.sampling.max_new_tokens=63") == []
    assert found(site, "rollout.sampling.temperature=10") == []
