"""Group-relative advantages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_centred(rewards: Sequence[float]) -> Tensor:
    """A_g = r_g - mean(r): the advantages of one group's responses, [G] float32.

    No division by the standard deviation (ASymPO, arXiv 2606.03070, section 3). They sum to 0 over the group; a group whose
    rewards are all equal gets exactly 0 everywhere, whatever the rounding of the mean.

    Example: [1, 0, 0, 0] -> [0.75, -0.25, -0.25, -0.25].
    """
    values = torch.tensor(list(rewards), dtype=torch.float64)
    if bool((values == values[0]).all()):
        return torch.zeros(len(values), dtype=torch.float32)
    return (values - values.mean()).float()
