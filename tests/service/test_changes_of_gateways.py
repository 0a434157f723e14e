"""What operators change at gateways, over TCP: drained fleets and limits, at every gateway, without a restart."""

from __future__ import annotations

from functools import partial

from learner.config import QueueConfig
from learner.queue.change_journal import ChangeJournal
from leeway.v1 import operator_pb2 as op
from tests.service.fleet import RUN, TOKENS, eventually, valid_group

DRAIN = op.Change(drain=op.DrainFleet(fleet="alpha"))
UNDRAIN = op.Change(undrain=op.UndrainFleet(fleet="alpha"))
ONE_GROUP = "gateway.admission.quotas.alpha.max_queued_groups"


async def test_a_drained_fleet_is_granted_nothing_at_any_gateway_and_its_groups_are_taken(start_gateway, redis_server):
    gateways = [await start_gateway(), await start_gateway()]
    with ChangeJournal(QueueConfig(url=redis_server.url, run=RUN)) as journal:
        for granted, change in enumerate((DRAIN, UNDRAIN)):
            journal.request(f"change-{granted}", "ann", change)
            for gateway in gateways:
                async with gateway.connect() as alpha:
                    answer = await eventually(partial(alpha.lease, 1), lambda found, want=granted: found.groups == want)
                    assert (answer.retry_after_ms > 0) == (granted == 0)
                    if granted == 0:
                        assert await alpha.outcomes([valid_group()]) == ["ACCEPTED"]


async def test_a_quota_is_changed_and_given_back_without_a_restart(start_gateway, redis_server):
    gateway = await start_gateway()
    with ChangeJournal(QueueConfig(url=redis_server.url, run=RUN)) as journal:
        async with gateway.connect() as alpha, gateway.connect(TOKENS["beta"]) as beta:
            assert await alpha.outcomes([valid_group(), valid_group()]) == ["ACCEPTED"] * 2
            journal.request("limit", "ann", op.Change(set=op.SetSettings(values={ONE_GROUP: "1"})))
            await eventually(lambda: alpha.outcomes([valid_group()]), lambda found: found == ["RETRY"])
            assert await beta.outcomes([valid_group()]) == ["ACCEPTED"]
            journal.request("free", "ann", op.Change(unset=op.UnsetSettings(names=[ONE_GROUP])))
            await eventually(lambda: alpha.outcomes([valid_group()]), lambda found: found == ["ACCEPTED"])
