"""Changes of settings: what may be changed, that the whole is validated, and what a refusal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.config import GatewayConfig, LearnerConfig
from learner.config.changeable import (
    ChangeError,
    change_gateway,
    change_learner,
    changeable,
    fitting,
    gateway_config,
    learner_config,
    owner,
)


def learner(**changes: Any) -> LearnerConfig:
    values = {
        "model": Path("/m"),
        "queue": {"url": "redis://localhost", "run": "r"},
        "steps": 100,
        "checkpoint": {"dir": "/c"},
        "publish": {"dir": "/p"},
        "metrics_dir": "/x",
        "objective": {"name": "asympo"},
    }
    return LearnerConfig.parse(values | changes, source="test")


def gateway() -> GatewayConfig:
    values = {"identities_file": "/i", "queue": {"url": "redis://localhost", "run": "r"}, "limits": {"vocab_size": 8}}
    return GatewayConfig.parse(values, source="test")


def test_a_change_is_validated_with_the_whole_and_tells_old_and_new_values():
    changed = change_learner(learner(), {"steps": "120"}, {"optimizer.lr": "1e-5", "objective.rho_max": '"off"'})

    assert (changed.config.optimizer.lr, changed.config.objective.rho_max, changed.config.steps) == (1e-5, None, 120)
    assert changed.old == {"optimizer.lr": "1e-06", "objective.rho_max": "0.1"}
    assert changed.new == {"optimizer.lr": "1e-05", "objective.rho_max": "null"}
    again = change_learner(learner(), {"steps": "120"}, {}, ["steps"])
    assert (again.config.steps, again.old, again.new) == (100, {"steps": "120"}, {"steps": "100"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimizer.lr": "-1"}, "optimizer.lr = -1"),
        ({"optimizer.lr": "1e-5", "steps": "0"}, "steps = 0"),
        ({"optimizer.lr": "fast"}, "optimizer.lr = fast: expected a JSON value"),
        ({"optimizer.lr": "[" * 50_000}, "expected a JSON value"),
        ({"objective.tis_cap": "3"}, "tis_cap = 3.0: asympo does not read it"),
        ({"objective.p_low": "0.5", "objective.p_high": "0.2"}, "p_low = 0.5 must be below p_high"),
        ({"objective.kl_coef": "0.1"}, "objective.kl_coef = 0.1: the run file has 0"),
        ({"weights.tokyo": "0"}, "weights.tokyo = 0"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_name(values: dict[str, str], said: str):
    with pytest.raises(ChangeError, match=said.replace(".", r"\.")):
        change_learner(learner(), {}, values)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("objective.name", "its state"),
        ("groups_per_step", "leases"),
        ("learner.optimizer.lr", "write optimizer.lr"),
        ("gateway.admission.weights.tokyo", "set weights.tokyo"),
        ("gateway.admission.quotas.tokyo", "choose one of"),
        ("gateway.admission.quotas.tokyo.speed", "choose one of"),
        ("weights.", "choose one of"),
        ("nonsense", "choose one of"),
    ],
)
def test_what_no_running_process_could_apply_is_refused_with_the_reason(name: str, said: str):
    with pytest.raises(ChangeError, match=said):
        owner(name)


def test_every_name_of_the_table_has_an_owner_and_a_setting():
    base, door = learner().model_dump(), gateway().model_dump()
    for name in changeable():
        assert owner(name) in ("learner", "gateway")
        if "<fleet>" not in name:
            found: Any = door if name.startswith("gateway.") else base
            for part in name.removeprefix("gateway.").split("."):
                found = found[part]


def test_gateways_take_their_own_settings_and_the_weights():
    values = {"gateway.admission.quotas.a.b.groups_per_s": "3", "gateway.admission.max_queued_groups": "7"}
    in_force = {**values, "weights.a.b": "2", "steps": "5"}

    config = gateway_config(gateway(), in_force)

    assert config.admission.quotas["a.b"].groups_per_s == 3
    assert (config.admission.max_queued_groups, config.admission.weights) == (7, {"a.b": 2.0})
    assert learner_config(learner(), in_force).weights == {"a.b": 2.0}
    changed = change_gateway(gateway(), {}, values)
    assert changed.new == {
        "gateway.admission.quotas.a.b.groups_per_s": "3.0",
        "gateway.admission.max_queued_groups": "7",
    }
    assert changed.old == {"gateway.admission.max_queued_groups": "100000"}


def test_what_no_longer_fits_an_edited_file_is_left_out_alone():
    in_force = {"steps": "120", "objective.rho_max": "0.2", "optimizer.lr": "1e-5"}

    config, refused = fitting(learner(objective={"name": "spo"}), in_force)

    assert (config.steps, config.optimizer.lr) == (120, 1e-5)
    assert list(refused) == ["objective.rho_max"]
    assert "spo does not read it" in refused["objective.rho_max"]


def test_a_setting_of_a_newer_release_is_left_out_and_can_be_given_back_but_not_set():
    in_force = {"optimizer.new": "1", "gateway.admission.max_queued_groups": "7"}

    config, refused = fitting(learner(), in_force)
    changed = change_gateway(gateway(), in_force, {}, ["optimizer.new"])

    assert (config, list(refused)) == (learner(), ["optimizer.new"])
    assert gateway_config(gateway(), in_force).admission.max_queued_groups == 7
    assert (changed.config.admission.max_queued_groups, changed.old, changed.new) == (7, {"optimizer.new": "1"}, {})
    for known, values, removed in ((in_force, {"optimizer.new": "2"}, []), ({}, {}, ["optimizer.new"])):
        with pytest.raises(ChangeError, match=r"optimizer\.new cannot be changed"):
            change_gateway(gateway(), known, values, removed)
