"""The account of a finished run from the producers' and the learner's own logs, independent of the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Id = tuple[str, str]  # fleet, group id


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


@dataclass(frozen=True)
class Accounts:
    """What the logs of a run say about its groups."""

    acked: set[Id]  # ids whose acceptance a worker saw
    surviving: list[Id]  # ids in the surviving weights, with repetition if there is one

    @classmethod
    def read(cls, run: Path, fleet: str = "local") -> Accounts:
        acked = {(fleet, row["group_id"]) for path in (run / "state").glob("*.acked.jsonl") for row in _rows(path)}
        resumed = {
            row["epoch"]: row["resumed_step"] for row in _rows(run / "metrics/learner.jsonl") if row["kind"] == "start"
        }
        surviving: list[Id] = []
        for row in _rows(run / "metrics/trained.jsonl"):
            forks = [step for epoch, step in resumed.items() if epoch > row["epoch"]]
            if row["step"] <= min(forks, default=row["step"]):
                surviving += [(fleet_, id_) for fleet_, id_ in row["groups"]]
        return cls(acked, surviving)
