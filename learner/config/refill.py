"""Settings of refilling a step: the section [learner.refill] of a run file."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import Settings


class RefillConfig(Settings):
    """How a step takes more groups in the place of those that it can train nothing of."""

    enabled: bool = Field(
        default=True,
        description="a step takes groups until groups_per_step of them have a contrast: rewards of scored responses that "
        "differ. The others are accounted as trained, and the loss is the mean over those with a contrast. With kl_coef or "
        "entropy_coef every group with two scored responses counts. false: a step is groups_per_step groups, whatever "
        "they are",
    )
    most: int = Field(
        default=4,
        gt=0,
        description="a step takes at most most * groups_per_step groups, and is made with what has a contrast among them; "
        "one that nothing can be trained of changes no weights",
    )
