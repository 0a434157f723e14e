"""One cell of the evidence: everything that decides a run, and the key under which its result is kept."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from rollout.data.demo_model import DemoShape
from runtime.settings import Settings

Staleness = int | Literal["mixed", "jump"]

# "small" has 100,736 parameters and is what the grid trains; "demo" is the demo's own model of 594,688; "large" has 57
# million.
SHAPES = {
    "small": DemoShape(hidden=64, ffn=192, head_dim=16),
    "demo": DemoShape(),
    "large": DemoShape(layers=8, hidden=768, ffn=2304, heads=8, kv_heads=4, head_dim=96),
}


class Cell(Settings):
    """One run. Two runs with equal cells give equal results, so that a result is never computed twice.

    ``format`` grows when a change of the product or of this program makes earlier results incomparable.
    """

    format: Literal[1] = 1
    task: Literal["sort", "sumto", "add", "uneven"]
    objective: str = Field(description="name of an objective of the product")
    constants: dict[str, float | str] = Field(default={}, description="keys of [learner.objective] besides the name")
    staleness: Staleness = Field(
        default=16,
        description="age in optimizer steps of every trained token; mixed: 0, 4, 16 and 64 for a quarter of the groups "
        "each; jump: 0 in the first half of the run, 64 in the second",
    )
    lr: float = Field(gt=0, description="learning rate, constant; a ceiling where it is governed")
    average: float = Field(default=0.0, ge=0, lt=1, description="publish.average")
    governed: bool = Field(default=False, description='lr_control.mode = "drift" instead of "off"')
    drift_target: float = Field(default=0.4, gt=0, description="lr_control.drift_target")
    steps: int = Field(default=200, gt=0)
    prompts: int = Field(default=16, gt=0, description="groups in a step")
    responses: int = Field(default=8, gt=1, description="responses in a group")
    betas: tuple[float, float] = (0.9, 0.999)
    dtype: Literal["float32", "bfloat16"] = "float32"
    model: Literal["small", "demo", "large"] = "small"
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What it sets, in a form for JSON; what has its default is left out."""
        return {"format": self.format, **self.model_dump(mode="json", exclude_defaults=True)}

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that equal cells share; keys with their defaults count like keys left out."""
        text = json.dumps(self.settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def oldest(self) -> int:
        """Largest age of a trained token, in optimizer steps."""
        return self.staleness if isinstance(self.staleness, int) else 64

    @property
    def arm(self) -> str:
        """Which parts of the control are on: plain, averaged, governed or both."""
        return {(0, 0): "plain", (1, 0): "averaged", (0, 1): "governed", (1, 1): "both"}[
            bool(self.average), self.governed
        ]

    def __str__(self) -> str:
        constants = "".join(f" {name}={value}" for name, value in sorted(self.constants.items()))
        return f"{self.task} S={self.staleness} {self.objective}{constants} {self.arm} lr={self.lr:g} seed={self.seed}"
