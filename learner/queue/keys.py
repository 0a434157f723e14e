"""Names of a run's Redis keys. All share the hash tag ``{run}``, so that a run lives on one shard of a cluster."""

from __future__ import annotations

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
        self.fleets = prefix + "fleets"
        self.epoch = prefix + "epoch"
        self.progress = prefix + "progress"
        self.versions = prefix + "versions"
        self.timelines = prefix + "timelines"
        self.quarantine = prefix + "quarantine"
        self.leases = prefix + "leases"
        self.lease_remaining = prefix + "lease_remaining"
        self.clock = prefix + "clock"
        self.hungry = prefix + "hungry"
        self.stepped = prefix + "stepped"
        self.probe = prefix + "probe"  # gateways write it to test whether Redis takes writes
        self.stream_prefix = prefix + "stream:"
        self.payload_prefix = prefix + "group:"
        self.id_prefix = prefix + "id:"
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

    def id(self, fleet: str, group_id: str) -> str:
        """Key of a group's state: "queued", "trained:<step>", "expired:<step>" or "lost:<step>"."""
        return f"{self.id_prefix}{fleet}:{group_id}"

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
