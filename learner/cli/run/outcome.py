"""The outcome of one `leeway up`: when it ran, why it ended, and the final ledgers."""

from __future__ import annotations

from dataclasses import dataclass, field

from leeway.v1 import rollout_pb2


@dataclass
class Outcome:
    """How one `leeway up` ended.

    Attributes:
        started: when it started, in Unix seconds.
        stopping: when it began to stop its processes, in Unix seconds.
        ended: when all of them had ended, in Unix seconds.
        signal: the signal that stopped it; None when none did.
        failure: why the run failed; None when it did not.
        not_evaluated: why the last version may not have been evaluated; None where it was, or nothing is evaluated.
        restarts: how often each process was restarted, by name.
        ledgers: each fleet's ledger at the end; None when Redis could not be read.
    """

    started: float
    stopping: float = 0.0
    ended: float = 0.0
    signal: int | None = None
    failure: str | None = None
    not_evaluated: str | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    ledgers: list[rollout_pb2.Ledger] | None = None
