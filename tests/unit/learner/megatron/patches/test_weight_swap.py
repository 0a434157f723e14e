"""A swap of weights: other values inside, the own data untouched afterwards, even after an error."""

from __future__ import annotations

import pytest
import torch

from learner.megatron.patches.weight_swap import swapped


def test_parameters_have_other_weights_inside_only():
    parameter = torch.nn.Parameter(torch.ones(3))
    own = parameter.data_ptr()
    with swapped([parameter], [torch.full((3,), 2.0, dtype=torch.bfloat16)]):
        assert parameter.dtype == torch.float32
        assert parameter.tolist() == [2.0] * 3
    assert parameter.tolist() == [1.0] * 3
    assert parameter.data_ptr() == own


def test_an_error_inside_brings_the_own_weights_back():
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    with pytest.raises(ValueError), swapped(parameters, [torch.zeros(1)]):  # one weight is missing
        pass
    assert [parameter.item() for parameter in parameters] == [1.0, 1.0]
