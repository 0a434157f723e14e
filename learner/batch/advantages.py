"""Group-relative advantages: the G rewards of one group in, [G] float32 out.

A group whose rewards are all equal gets exactly 0 everywhere, whatever the rounding of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.batch.weighting import Advantage

_EPSILON = 1e-6  # as in GRPO's implementations: rounding noise of nearly equal rewards is no unit advantage


def advantages(rewards: Sequence[float], kind: Advantage) -> Tensor:
    """Computes the advantages of one group's responses with the estimator called ``kind``: [G] float32."""
    estimators = {
        "mean": mean_centred,
        "std": standardised,
        "std_unbiased": standardised_unbiased,
        "leave_one_out": leave_one_out,
    }
    return estimators[kind](rewards)


def mean_centred(rewards: Sequence[float]) -> Tensor:
    """Computes A_g = r_g - mean(r). They sum to 0.

    There is no division by the standard deviation (ASymPO, arXiv 2606.03070, section 3; Dr. GRPO, arXiv 2503.20783).

    Example: [1, 0, 0, 0] -> [0.75, -0.25, -0.25, -0.25].
    """
    return _centred(rewards).float()


def standardised(rewards: Sequence[float]) -> Tensor:
    """Computes A_g = (r_g - mean(r)) / (std(r) + 1e-6), with divisor G in the standard deviation (GRPO, arXiv 2402.03300).

    The paper does not name the divisor; G - 1 only scales all advantages by sqrt((G - 1) / G).

    Example: [1, 0, 0, 0] -> std = 0.4330 -> [1.7320, -0.5774, -0.5774, -0.5774].
    """
    return _standardised(rewards, len(rewards))


def standardised_unbiased(rewards: Sequence[float]) -> Tensor:
    """Computes A_g = (r_g - mean(r)) / (std(r) + 1e-6), with divisor G - 1 in the standard deviation.

    That is ``torch.std`` as it comes, and what implementations of GRPO have: verl adds 1e-6 to it, TRL 1e-4, OpenRLHF 1e-9.
    Our choice: verl's 1e-6.

    Example: [1, 0, 0, 0] -> std = 0.5 -> [1.5, -0.5, -0.5, -0.5].
    """
    return _standardised(rewards, max(1, len(rewards) - 1))


def leave_one_out(rewards: Sequence[float]) -> Tensor:
    """Computes A_g = r_g - (mean of the other rewards) = G / (G - 1) * (r_g - mean(r)) (RLOO, arXiv 2402.14740). Sum: 0.

    Example: [1, 0, 0, 0] -> [1, -1/3, -1/3, -1/3].
    """
    return (_centred(rewards) * (len(rewards) / max(1, len(rewards) - 1))).float()


def _standardised(rewards: Sequence[float], divisor: int) -> Tensor:
    centred = _centred(rewards)
    return (centred / ((centred.square().sum() / divisor).sqrt() + _EPSILON)).float()


def _centred(rewards: Sequence[float]) -> Tensor:
    """Computes r - mean(r) in float64; exactly 0 where all rewards are equal."""
    values = torch.tensor(list(rewards), dtype=torch.float64)
    if bool((values == values[0]).all()):
        return torch.zeros_like(values)
    return values - values.mean()
