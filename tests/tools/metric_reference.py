"""`python -m tests.tools.metric_reference --write`: deploy/metrics.md, made from the declarations in the code.

Without --write, exits 1 when the committed file differs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from learner.config import LearnerConfig
from learner.gateway.health import GatewayHealth
from learner.gateway.metrics import GatewayMetrics
from learner.process.health import RankHealth
from learner.telemetry.rank_metrics import RankMetrics
from rollout.config import WorkerConfig
from rollout.evaluation.evaluator_metrics import EvaluatorMetrics
from rollout.telemetry.worker_files import WorkerFiles
from rollout.telemetry.worker_metrics import WorkerMetrics
from runtime.metric_registry import Declaration, MetricRegistry

FILE = Path(__file__).parents[2] / "deploy" / "metrics.md"
_HEAD = """# Metrics

Made from the code by `python -m tests.tools.metric_reference --write`. Every process serves them at `/metrics` of its
status endpoint (`status.listen`), with `process_*` (memory, CPU, descriptors) beside them. Names end in their unit; points
in time are Unix seconds: the age of something is `time() - x`. Labels are bounded: `fleet` by the identities file,
`engine` by the worker's engines, `task` of a worker by its settings, all others by the code (`task` and `part` of the
learner: 32, then `other`). The target label `run` comes from the scrape configuration. Histograms have the usual `_bucket`,
`_sum` and `_count`. What has not happened yet exists, at 0.
"""


def registries() -> dict[str, MetricRegistry]:
    """The metric registry of each kind of process, as it is after the start."""
    nowhere: dict[str, Any] = {"dir": "/nowhere"}
    config = LearnerConfig.parse(
        {
            "model": "/nowhere", "queue": {"url": "redis://nowhere", "run": "run"}, "steps": 1, "checkpoint": nowhere,
            "publish": nowhere, "metrics_dir": "/nowhere",
        }, "the reference",
    )  # fmt: skip
    learner, worker, absent = RankMetrics(RankHealth(1.0)), WorkerMetrics(1, ["sort"]), Any
    learner.add_run(config)
    nothing = dict.fromkeys(("model", "state_dir", "log_dir"), "/nowhere")
    WorkerFiles(
        WorkerConfig.parse({"gateway": "nowhere", "allowed_uris": ["file:///nowhere"], **nothing}, ""), worker.registry
    )
    worker.follow(absent, absent)  # pyright: ignore[reportArgumentType] - asked only by a scrape
    made = GatewayMetrics(GatewayHealth())
    evaluator = MetricRegistry()
    EvaluatorMetrics(evaluator)
    return {"Gateway": made.registry, "Learner": learner.registry, "Worker": worker.registry, "Evaluator": evaluator}


def declared() -> set[str]:
    """Names of every series that our processes may show."""
    names: set[str] = set()
    for one in registries().values():
        for metric in one.declared:
            suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
            names |= {metric.name + suffix for suffix in suffixes}
    return names


def text() -> str:
    """The whole reference."""
    parts = [_HEAD]
    for process, made in registries().items():
        rows = [_row(metric) for metric in sorted(made.declared, key=lambda one: one.name)]
        parts.append(f"## {process}\n\n| metric | kind | labels | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(metric: Declaration) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text())
    elif FILE.read_text() != text():
        sys.exit(
            f"{FILE} is not what the code declares: run `python -m tests.tools.metric_reference --write` and commit"
        )
