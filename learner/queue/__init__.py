"""The only user of Redis: what gateways append and the learner takes, commits and is accountable for."""

from learner.queue.embedded import EmbeddedRedis
from learner.queue.errors import FencedError, MemoryFullError, QueueError, UnavailableError
from learner.queue.gateway import GatewayQueue
from learner.queue.groups import GroupRef, TakenGroup
from learner.queue.learner import LearnerQueue
from learner.queue.ledger import check, read_ledgers
from learner.queue.registry import UnknownVersionError

__all__ = [
    "EmbeddedRedis",
    "FencedError",
    "GatewayQueue",
    "GroupRef",
    "LearnerQueue",
    "MemoryFullError",
    "QueueError",
    "TakenGroup",
    "UnavailableError",
    "UnknownVersionError",
    "check",
    "read_ledgers",
]
