"""The patch of the distributed optimizer: applied once, and only to the functions it was written for."""

from __future__ import annotations

import pytest
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.patches import adam_step
from learner.megatron.patches.guard import PatchError


@pytest.fixture
def unpatched(monkeypatch):
    """The class as a new process has it, and as this process had it afterwards."""
    monkeypatch.setattr(DistributedOptimizer, "_leeway_patched", False, raising=False)
    monkeypatch.setattr(DistributedOptimizer, "load_state_dict", lambda self, state_dict: None)
    monkeypatch.setattr(
        DistributedOptimizer, "_set_main_param_and_optimizer_states", lambda self, model_param, tensors: None
    )
    return monkeypatch


def test_it_is_applied_once(unpatched):
    before = DistributedOptimizer.load_state_dict
    adam_step.apply()
    patched = DistributedOptimizer.load_state_dict
    assert patched is not before
    adam_step.apply()
    assert DistributedOptimizer.load_state_dict is patched


def test_another_signature_is_refused_and_left_alone(unpatched):
    def load_state_dict(self, state_dict, strict):
        pass

    unpatched.setattr(DistributedOptimizer, "load_state_dict", load_state_dict)
    with pytest.raises(PatchError, match=r"load_state_dict\(self, state_dict, strict\)"):
        adam_step.apply()
    assert DistributedOptimizer.load_state_dict is load_state_dict
