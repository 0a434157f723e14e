"""How unevenly tokens are spread over experts: the numbers of a step, their mean over steps, and the alarm on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from learner.config.control import AlarmConfig
from learner.control.alarms import Alarms
from learner.control.expert_loads import ExpertLoads, expert_loads
from learner.telemetry.flat_fields import numbers


def test_the_numbers_of_a_step():
    row = expert_loads({1: [6, 2, 0, 0], 3: [4, 4, 4, 4], 4: [0, 0, 0, 0]})
    assert row == {
        "expert_load": {"1": 3.0, "3": 1.0},
        "expert_idle": {"1": 0.5, "3": 0.0},
        "expert_load_max": 3.0,
        "expert_idle_max": 0.5,
    }
    assert numbers(row)["expert_load/1"] == 3.0  # as TensorBoard has it


def test_a_dense_model_has_no_numbers():
    assert expert_loads({}) == {"expert_load": {}, "expert_idle": {}, "expert_load_max": None, "expert_idle_max": None}


def test_the_layer_that_has_risen_most_is_found_not_the_one_with_the_largest_load():
    loads = ExpertLoads(4)
    assert loads.risen() is None
    for step in range(30):
        loads.add({"0": 6.0, "7": 1.5 if step < 6 else 4.5})
        loads.add({})
    rise = loads.risen()
    assert rise is not None
    assert (rise.layer, rise.first) == ("7", 1.5)
    assert rise.now == pytest.approx(4.5, rel=1e-2)
    again = ExpertLoads(4)
    again.load_state_dict(json.loads(json.dumps(loads.state_dict())))
    assert again.risen() == rise
    loads.clear()
    assert loads.risen() is None


def watch(config: AlarmConfig, after: float) -> list[Any]:
    alarms, raised = Alarms(config), []
    for step in range(60):
        row = {"step": step, "finite": True, "expert_load": {"2": 2.0 if step < 20 else after, "5": 3.0}}
        raised += [(step, alarm) for alarm in alarms.observe(row)]
        kept = json.loads(json.dumps(alarms.state_dict()))
        alarms = Alarms(config)
        alarms.load_state_dict(kept)
    return raised


def test_a_layer_whose_load_doubles_raises_one_alarm_that_names_it():
    ((step, alarm),) = watch(AlarmConfig(), 6.0)
    assert 20 < step < 30
    assert (alarm.rule, alarm.action) == ("experts", "warn")
    assert "layer 2 narrows" in alarm.reason
    assert "2 times at first" in alarm.reason


def test_a_load_that_rises_a_little_is_none_nor_is_a_rule_that_is_off():
    assert watch(AlarmConfig(), 3.5) == []
    assert watch(AlarmConfig(experts="off"), 6.0) == []
    assert [alarm.rule for _, alarm in watch(AlarmConfig(experts_rise=1.5), 3.5)] == ["experts"]
