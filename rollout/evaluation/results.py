"""The file of a run's evaluations: one row for each version, task and sampling, appended when it is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leeway.v1 import rollout_pb2
from rollout.evaluation.statistics import Interval

_MOST_METRICS = 64  # of a report, as the contract says


@dataclass(frozen=True)
class EvaluationResult:
    """What a version is worth on one set of prompts.

    Attributes:
        version: the version.
        name: the task's name in results.
        sampling: the sampling's name.
        prompts: number of prompts.
        samples: responses to each.
        unscored: responses that nobody could judge.
        metrics: what was measured.
        seconds: how long it took.
        time: when it was complete, in Unix seconds.
        prompt_means: mean reward of each prompt's judged responses, in the order of the prompts; None: none was judged. Two
            versions are compared prompt by prompt.
    """

    version: int
    name: str
    sampling: str
    prompts: int
    samples: int
    unscored: int
    metrics: dict[str, Interval]
    seconds: float
    time: float
    prompt_means: list[float | None]

    def row(self) -> dict[str, Any]:
        """Returns the row of the file."""
        metrics = {name: [one.value, one.low, one.high] for name, one in self.metrics.items()}
        return {"kind": "evaluation", **vars(self), "metrics": metrics}

    @classmethod
    def of(cls, row: dict[str, Any]) -> EvaluationResult:
        """Reads a row of the file. Raises KeyError, TypeError or ValueError where it is none."""
        values = {name: value for name, value in row.items() if name != "kind"}
        return cls(**{**values, "metrics": {name: Interval(*three) for name, three in row["metrics"].items()}})

    def message(self) -> rollout_pb2.Evaluation:
        """Returns the report for the gateway, which takes 64 metrics: the parts with the last names are left out."""
        names = sorted(self.metrics, key=lambda name: (name.startswith("part/"), name))[:_MOST_METRICS]
        message = rollout_pb2.Evaluation(
            version=self.version,
            name=self.name,
            sampling=self.sampling,
            prompts=self.prompts,
            samples=self.samples,
            unscored=self.unscored,
            metrics={name: rollout_pb2.Interval(**vars(self.metrics[name])) for name in names},
            seconds=self.seconds,
        )
        message.measured_at.FromMilliseconds(int(self.time * 1000))
        return message


class ResultFile:
    """The rows that were written, by this process and earlier ones.

    Args:
        path: created with its directory when missing. What a crash has left of a last row is closed with a line break.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.results = list(_read(path))

    def has(self, version: int, name: str, sampling: str) -> bool:
        """Whether a result is there."""
        return any((one.version, one.name, one.sampling) == (version, name, sampling) for one in self.results)

    def append(self, result: EvaluationResult) -> None:
        """Writes a result."""
        with self._path.open("ab+") as file:
            if file.tell() and not _ends_a_line(file):
                file.write(b"\n")
            file.write(json.dumps(result.row()).encode() + b"\n")
        self.results.append(result)


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _read(path: Path) -> list[EvaluationResult]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(EvaluationResult.of(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue  # what a crash has left of a row
    return found
