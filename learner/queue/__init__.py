"""The queue of groups in Redis: gateways append, the learner takes and commits, a ledger counts both."""

from learner.queue.embedded import EmbeddedRedis
from learner.queue.entries import GroupRef, TakenGroup
from learner.queue.errors import FencedError, MemoryFullError, QueueError, StillAwayError, UnavailableError
from learner.queue.gateway_queue import Append, Appended, Backlog, Flushed, GatewayQueue, Memory
from learner.queue.learner_queue import LearnerQueue
from learner.queue.leases import LeaseWish, Occupancy
from learner.queue.ledger import imbalances, ledgers_in, read_ledgers
from learner.queue.rates import Permit, Rates
from learner.queue.recount import Discrepancy, Recount, recount
from learner.queue.version_registry import VERSIONS_KEPT, UnknownVersionError

__all__ = [
    "VERSIONS_KEPT",
    "Append",
    "Appended",
    "Backlog",
    "Discrepancy",
    "EmbeddedRedis",
    "FencedError",
    "Flushed",
    "GatewayQueue",
    "GroupRef",
    "LearnerQueue",
    "LeaseWish",
    "Memory",
    "MemoryFullError",
    "Occupancy",
    "Permit",
    "QueueError",
    "Rates",
    "Recount",
    "StillAwayError",
    "TakenGroup",
    "UnavailableError",
    "UnknownVersionError",
    "imbalances",
    "ledgers_in",
    "read_ledgers",
    "recount",
]
