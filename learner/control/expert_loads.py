"""How unevenly a mixture's tokens are spread over its experts, layer by layer: in a step, and for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learner.control.tracked_mean import TrackedMean

_DIGITS = 4  # of the row's numbers, of which a large model has a hundred pairs


def expert_loads(tokens: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """Computes the fields of a step's row that say how a step's tokens were spread over experts.

    Args:
        tokens: tokens that each expert was sent, by the number of its layer, from 0; empty for a dense model.

    Returns:
        expert_load: layer -> tokens of its busiest expert over the mean of its experts, 1 if all have as many.
        expert_idle: layer -> share of its experts that no token was sent to.
        expert_load_max, expert_idle_max: the largest of each. Empty and None where no token was sent to any expert.
    """
    sent = {str(layer): experts for layer, experts in tokens.items() if sum(experts)}
    load = {layer: round(max(experts) * len(experts) / sum(experts), _DIGITS) for layer, experts in sent.items()}
    idle = {layer: round(experts.count(0) / len(experts), _DIGITS) for layer, experts in sent.items()}
    return {
        "expert_load": load,
        "expert_idle": idle,
        "expert_load_max": max(load.values(), default=None),
        "expert_idle_max": max(idle.values(), default=None),
    }


@dataclass(frozen=True)
class Rise:
    """The rise of a layer's load since the first steps.

    Attributes:
        layer: number of the layer, from 0.
        first: the first known mean of its busiest expert's tokens over the mean expert's.
        now: the mean now.
    """

    layer: str
    first: float
    now: float


class ExpertLoads:
    """Exponential means of each layer's load, over about ``window`` steps."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._means: dict[str, TrackedMean] = {}

    def add(self, loads: Mapping[str, float]) -> None:
        """Takes in ``expert_load`` of a step's row; a step without tokens changes nothing."""
        for layer, load in loads.items():
            self._means.setdefault(layer, TrackedMean(self._window)).add(load)

    def risen(self) -> Rise | None:
        """Finds the layer whose load has risen most against its first mean; None before half a window of steps."""
        rises = [
            Rise(layer, mean.first, mean.mean)
            for layer, mean in self._means.items()
            if mean.first is not None and mean.mean is not None
        ]
        return max(rises, key=lambda rise: rise.now / rise.first, default=None)

    def clear(self) -> None:
        """Forgets every step."""
        self._means.clear()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {layer: mean.state_dict() for layer, mean in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.clear()
        for layer, mean in state.items():
            self._means.setdefault(layer, TrackedMean(self._window)).load_state_dict(mean)
