"""The queue of groups in Redis: gateways append, the learner takes and commits, a ledger counts both."""

from learner.queue.embedded import EmbeddedRedis
from learner.queue.entries import GroupRef, TakenGroup
from learner.queue.errors import (
    FencedError,
    HaltedError,
    MemoryFullError,
    QueueError,
    ServedError,
    StillAwayError,
    UnavailableError,
)
from learner.queue.gateway_queue import Append, Appended, Backlog, Flushed, GatewayQueue, Kind, Memory
from learner.queue.groups_in_flight import WASTES, Waste
from learner.queue.learner_queue import LearnerQueue
from learner.queue.leases import Allowance, Leases, LeaseWish, Occupancy
from learner.queue.ledger import imbalances, ledgers_in, read_ledgers
from learner.queue.rates import Permit, Rates
from learner.queue.recount import Discrepancy, Recount, recount
from learner.queue.reopening import reopen
from learner.queue.version_registry import VERSIONS_KEPT, Timeline, UnknownVersionError, VersionRegistry
from learner.queue.witness import REPAIRED_S

__all__ = [
    "REPAIRED_S",
    "VERSIONS_KEPT",
    "WASTES",
    "Allowance",
    "Append",
    "Appended",
    "Backlog",
    "Discrepancy",
    "EmbeddedRedis",
    "FencedError",
    "Flushed",
    "GatewayQueue",
    "GroupRef",
    "HaltedError",
    "Kind",
    "LearnerQueue",
    "LeaseWish",
    "Leases",
    "Memory",
    "MemoryFullError",
    "Occupancy",
    "Permit",
    "QueueError",
    "Rates",
    "Recount",
    "ServedError",
    "StillAwayError",
    "TakenGroup",
    "Timeline",
    "UnavailableError",
    "UnknownVersionError",
    "VersionRegistry",
    "Waste",
    "imbalances",
    "ledgers_in",
    "read_ledgers",
    "recount",
    "reopen",
]
