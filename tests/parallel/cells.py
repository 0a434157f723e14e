"""The cells of the equivalence matrix: a layout, a model and an objective each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from learner.config import ObjectiveConfig, ParallelConfig
from learner.objectives import get, names
from tests.parallel.reference_adapters import TARGETS

PADDED = 12  # micro-batches: so many that each sequence has a row of its own, most of it padding
LONGEST = 144  # tokens that such a row is padded to


@dataclass(frozen=True)
class Cell:
    """One run of three steps.

    Attributes:
        ranks: number of ranks; data parallelism takes what ``parallel`` leaves of them.
        micro_batches: least number of micro-batches on a data-parallel rank.
        adapted: projections whose adapters are trained; empty: the weights are.
        replay: whether tokens go to the experts of made-up records.
    """

    model: str
    ranks: int
    parallel: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "reinforce"})
    micro_batches: int = 2
    recompute: str = "none"
    layers: str = "own"
    dtype: str = "float32"
    overlap: bool | None = None
    bucket: int | None = None
    adapted: tuple[str, ...] = ()
    replay: bool = False

    @property
    def data(self) -> int:
        """Number of data-parallel ranks."""
        parallel = ParallelConfig(**self.parallel)
        return self.ranks // (parallel.tensor * parallel.pipeline * parallel.context)

    @property
    def layout(self) -> str:
        """Short name of the layout, such as "TP2 PP2 SP"."""
        parallel = ParallelConfig(**self.parallel)
        sizes = [("TP", parallel.tensor), ("CP", parallel.context), ("PP", parallel.pipeline)]
        sizes += [("VPP", parallel.virtual_pipeline), ("DP", self.data), ("EP", parallel.expert)]
        words = [f"{name}{size}" for name, size in sizes if size > 1] + ["SP"] * parallel.sequence
        return " ".join(words) or "TP1"

    @property
    def rows(self) -> str:
        """Whether sequences share rows ("packed") or not ("padded")."""
        return "padded" if self.micro_batches == PADDED else "packed"

    @property
    def title(self) -> str:
        """The objective with its options, and which adapters are trained, if any are."""
        extra = {key: value for key, value in self.objective.items() if key != "name"}
        words = [self.objective["name"], *(f"{key}={value}" for key, value in extra.items())]
        words += [f"adapters: {'all' if self.adapted == TARGETS else ' '.join(self.adapted)}"] if self.adapted else []
        return " ".join(words)


def behaviour_free() -> list[str]:
    """Names of the objectives that train from rewards and need only the current log-probabilities."""
    built = {name: get(ObjectiveConfig(name=name)) for name in names() if name != "sft"}
    return [name for name, objective in built.items() if not objective.needs_behaviour]


TP2, PP2, PP4 = {"tensor": 2}, {"pipeline": 2}, {"pipeline": 4}
SP2, SP4 = {"tensor": 2, "sequence": True}, {"tensor": 4, "sequence": True}
CP2, CP4 = {"context": 2}, {"context": 4}
VPP = {"pipeline": 2, "virtual_pipeline": 2}
EP2, EP4 = {"expert": 2}, {"expert": 4}


def layouts() -> list[Cell]:
    """Every parallel dimension, alone and with others, over the models."""
    asympo = {"name": "asympo"}
    return [
        Cell("qwen2 tied", 1, objective=asympo),
        Cell("llama untied", 1, micro_batches=PADDED),
        Cell("qwen3 untied", 1, micro_batches=1, recompute="full"),
        Cell("qwen3 untied", 2, TP2),
        Cell("qwen2 untied", 2, SP2, asympo, adapted=("q_proj", "v_proj", "up_proj", "down_proj")),
        Cell("llama tied", 2, SP2, micro_batches=PADDED),
        Cell("llama tied", 2, TP2, asympo, recompute="selective", adapted=TARGETS),
        Cell("qwen2 tied", 2, PP2, asympo),
        Cell("qwen3 untied", 2, PP2, micro_batches=PADDED),
        Cell("qwen2 tied", 2, VPP),
        Cell("qwen3 tied", 2, VPP, asympo, micro_batches=3),
        Cell("llama untied", 2, VPP, micro_batches=PADDED, recompute="full"),
        Cell("qwen2 tied", 2, {}, asympo, adapted=TARGETS, overlap=True),
        Cell("qwen3 untied", 4, {}, micro_batches=1),
        Cell("mistral untied", 4, SP2 | PP2),
        Cell("qwen2 untied", 4, SP2, asympo, recompute="full"),
        Cell("qwen3 tied", 4, PP2, recompute="selective"),
        Cell("llama untied", 4, VPP, asympo),
        Cell("qwen2 tied", 4, PP4, micro_batches=4),
        Cell("qwen3 untied", 4, TP2 | PP2, micro_batches=PADDED),
        Cell("qwen2 tied", 4, SP2 | VPP, recompute="full", adapted=TARGETS),
        Cell("qwen2 tied", 2, CP2, asympo),
        Cell("llama untied", 2, CP2, micro_batches=PADDED, recompute="selective"),
        Cell("qwen3 untied", 4, CP2, micro_batches=1),
        Cell("llama tied", 4, SP2 | CP2, asympo, recompute="full"),
        Cell("qwen3 tied", 4, VPP | CP2, micro_batches=3),
        Cell("qwen2 untied", 4, PP2 | CP2, asympo),
        Cell("llama untied", 4, CP4, recompute="selective"),
        Cell("glm untied", 4, CP2 | EP2, asympo, replay=True),
        Cell("moe untied", 1, objective=asympo),
        Cell("moe tied", 1, micro_batches=PADDED, recompute="full"),
        Cell("deepseek untied", 2, SP2 | EP2),
        Cell("deepseek untied", 4, PP2 | CP2, recompute="selective"),
        Cell("glm untied", 2, SP2 | EP2, asympo, recompute="full", replay=True),
        Cell("moe untied", 4, EP2, micro_batches=1),
        Cell("moe tied", 4, SP4 | EP4, recompute="selective"),
        Cell("glm untied", 4, PP2 | EP2, asympo, recompute="selective"),
        Cell("moe untied", 4, SP2 | VPP | EP2, asympo, micro_batches=3, replay=True),
    ]


def objectives() -> list[Cell]:
    """Behaviour-free objectives with their options, under a layout that splits vocabulary, layers and tokens."""
    options = [
        {"name": "asympo", "rho_max": "off"},
        {"name": "asympo", "p_low": 0.005, "p_high": 0.02},
        {"name": "reinforce", "entropy_coef": 0.05},
    ]
    chosen = [{"name": name} for name in behaviour_free()] + options
    cells = [Cell("llama untied", 4, SP2 | VPP, objective) for objective in chosen]
    return cells + [Cell("qwen2 tied", 2, {}, {"name": name}, micro_batches=1) for name in ("opmd", "asymre")]
