"""Names of a run's Redis keys. All share the hash tag ``{run}``, so that a run lives on one shard of a cluster."""

from __future__ import annotations

ID_BUCKET_MS = 600_000  # ids are remembered in buckets of so many milliseconds of the time at which they were made
GROUP = "learner"  # the consumer group of every fleet's stream, and its only consumer
CONSUMER = "learner"


class Keys:
    """The keys of one run.

    Args:
        run: the run's name, ``[A-Za-z0-9._-]{1,64}``.
    """

    def __init__(self, run: str) -> None:
        prefix = f"leeway:{{{run}}}:"
        self.schema = prefix + "schema"
        self.nonce = prefix + "nonce"  # drawn when the run's data is made, and again when an operator accepts a loss
        self.replaced = prefix + "replaced"  # hash: an earlier nonce -> the decision that replaced it, as JSON
        self.halted = prefix + "halted"  # why the queue stands still, as JSON; there while it does
        self.fleets = prefix + "fleets"
        self.epoch = prefix + "epoch"
        self.progress = prefix + "progress"
        self.activity = prefix + "activity"  # what the learner does now; it expires when the learner says nothing
        self.identities = prefix + "identities"  # hash: name of an identity that an operator has added -> it, as JSON
        self.identity_revision = prefix + "identity_revision"  # differs whenever ``identities`` was changed
        self.versions = prefix + "versions"
        self.timelines = prefix + "timelines"
        self.quarantine = prefix + "quarantine"
        self.evaluations = prefix + "evaluations"  # hash: "version:name:sampling" -> the evaluation, as JSON
        self.evaluation_order = prefix + "evaluation_order"  # sorted set: the fields of ``evaluations`` by version
        self.evaluation_newest = prefix + "evaluation_newest"  # hash: "name:sampling" -> version and evaluation
        self.evaluation_best = prefix + "evaluation_best"  # hash: "name:sampling:metric" -> best version and its value
        self.evaluating = prefix + "evaluating"  # hash: "fleet/worker" -> "version:unix_ms" of what is being evaluated
        self.changes = prefix + "changes"  # hash: number -> the change that an operator requested, without its number
        self.change_requests = prefix + "change_requests"  # sorted set: request ids by their change's number
        self.change_pending = prefix + "change_pending"  # sorted set: numbers of the changes that wait for the learner
        self.change_state = prefix + "change_state"  # hash: number (of the last change), revision, paused
        self.settings = prefix + "settings"  # hash: name -> JSON value of a setting that an operator has changed
        self.drained = prefix + "drained"  # set: fleets that are granted no groups
        self.pinned = prefix + "pinned"  # set: versions that operators keep
        self.leases = prefix + "leases"
        self.lease_remaining = prefix + "lease_remaining"
        self.lease_terms = prefix + "lease_terms"  # lease -> when it was granted, and whether it was renewed
        self.lease_account = prefix + "lease_account"  # what became of each fleet's leases
        self.clock = prefix + "clock"
        self.hungry = prefix + "hungry"
        self.stepped = prefix + "stepped"
        self.probe = prefix + "probe"  # gateways write it to test whether Redis takes writes
        self.stream_prefix = prefix + "stream:"
        self.payload_prefix = prefix + "group:"
        self.ids_prefix = prefix + "ids:"
        self.memory_prefix = prefix + "memory:"
        self.ledger_prefix = prefix + "ledger:"
        self._rates = prefix + "rates:"
        self._running = prefix + "running:"
        self._vanished = prefix + "vanished:"

    def stream(self, fleet: str) -> str:
        """Key of the fleet's queue: a stream of references to accepted groups."""
        return self.stream_prefix + fleet

    def payload(self, fleet: str, group_id: str) -> str:
        """Key of the serialized group."""
        return f"{self.payload_prefix}{fleet}:{group_id}"

    def ids(self, fleet: str, group_id: str) -> str:
        """Key of the hash with the states of all the fleet's groups that were made in the same ten minutes as this one.

        Group id -> "queued", or an outcome and the step, such as "trained:12".
        """
        return f"{self.ids_prefix}{fleet}:{made_ms(group_id) // ID_BUCKET_MS}"

    def memory(self, fleet: str) -> str:
        """Key of what is known of the fleet's remembered ids: bucket -> groups of it that have not left the queue.

        And "cutoff": no group is accepted whose id was made before, in Unix milliseconds, because it may be forgotten.
        """
        return self.memory_prefix + fleet

    def ledger(self, fleet: str) -> str:
        """Key of the fleet's counters."""
        return self.ledger_prefix + fleet

    def running(self, fleet: str) -> str:
        """Key of the hash of versions that the fleet's workers run: worker -> "version:unix_ms"."""
        return self._running + fleet

    def rates(self, fleet: str) -> str:
        """Key of the fleet's token buckets."""
        return self._rates + fleet

    def vanished(self, fleet: str) -> str:
        """Key of the set of group ids that were acknowledged and that Redis had lost after a restart."""
        return self._vanished + fleet


def made_ms(group_id: str) -> int:
    """Unix milliseconds in a UUID of version 7; 0 for any other text."""
    try:
        return int(group_id[:8] + group_id[9:13], 16)
    except ValueError:
        return 0
