"""Groups that the learner refuses because they are not finite: counted, kept, and never handed out again."""

from __future__ import annotations

from learner.config import LimitsConfig
from learner.gateway.quarantine_replay import replay
from learner.queue import Appended, recount
from learner.queue.quarantine import Quarantine
from tests.service.fleet import VOCABULARY, valid_group
from tests.service.queueing import begun, feed, ids, ledger


async def test_a_refused_group_never_comes_back_and_is_kept_for_the_operator(config, gateway_queue, open_learner):
    """The learner dies right after it has refused a group: the next one gets the others only."""
    groups = [valid_group(prompt_id=f"p{number}") for number in range(3)]
    await feed(gateway_queue, groups)
    learner = begun(open_learner)
    taken = learner.take(3, 0, 8)
    learner.quarantine(1, [(taken[1].ref, taken[1].group)], "non-finite loss (nan)")
    account = ledger(config)
    assert (account.quarantined, account.in_flight, account.trained) == (1, 2, 0)
    assert {bucket.outcome for bucket in account.histogram} == {"quarantined"}
    again = begun(open_learner, versions=())
    assert ids(again.take(3, 0, 8)) == ids([taken[0], taken[2]])
    assert await feed(gateway_queue, groups[1:2]) == [Appended.DUPLICATE]
    assert recount(config, []).discrepancies == []
    with Quarantine(config) as kept:
        (entry,) = kept.entries()
        assert (entry.fleet, entry.group_id, entry.reason) == ("alpha", groups[1].group_id, "not_finite")
        assert entry.value == "non-finite loss (nan), step 1, prompt p1"
        assert entry.payload == groups[1].SerializeToString()
        ((_, fate),) = await replay(config, LimitsConfig(vocab_size=VOCABULARY), [entry])
    assert fate.startswith("stays: not_finite")
