"""DescribeRun says every limit that a group is checked against."""

from __future__ import annotations

import re
from pathlib import Path

from learner.config import GatewayConfig
from learner.gateway.run_description import CONTRACT_REVISION, describe_run
from leeway.v1 import rollout_pb2 as pb

SETTINGS = {
    "identities_file": "/none",
    "queue": {"url": "redis://host/0", "run": "r1"},
    "admission": {"max_staleness": 5, "expire_after": 40},
    "limits": {
        "vocab_size": 11,
        "group_size": [2, 3],
        "max_prompt_tokens": 4,
        "max_response_tokens": 50,
        "max_response_context_tokens": 60,
        "truncated_sampling": True,
        "reward_range": [-0.5, 2.5],
        "temperature_range": [0.5, 1.5],
        "max_message_bytes": 7000,
        "routing": {"layers": [1, 3], "top_k": 2, "experts": 5},
    },
    "adapters": {"rank": 8, "targets": ["q_proj", "v_proj"]},
    "wanted": {
        "temperature": 0.75,
        "prompt_format": "chat",
        "group_size": 3,
        "max_new_tokens": 40,
        "routed_experts": True,
    },
}
DESCRIPTION = pb.DescribeRunResponse(
    run="r1", contract_revision=CONTRACT_REVISION, vocab_size=11, min_group_size=2, max_group_size=3, min_reward=-0.5,
    max_reward=2.5, min_temperature=0.5, max_temperature=1.5, max_prompt_tokens=4, max_response_tokens=50,
    max_response_context_tokens=60, max_message_bytes=7000, takes_truncated_sampling=True,
    wanted=pb.Wanted(
        temperature=0.75, prompt_format="chat", group_size=3, max_new_tokens=40, routed_experts=True,
    ),
    routing=pb.RoutedExperts(layers=[1, 3], top_k=2, experts=5), max_staleness=5,
    expire_after=40, finished=True, adapters=pb.AdapterForm(rank=8, targets=["q_proj", "v_proj"]),
)  # fmt: skip


def test_every_field_is_told():
    described = describe_run(GatewayConfig.parse(SETTINGS, "here"), finished=True)
    assert described == DESCRIPTION
    assert {field.name for field, _ in described.ListFields()} == set(pb.DescribeRunResponse.DESCRIPTOR.fields_by_name)


def test_what_is_not_set_is_not_told():
    settings = {**SETTINGS, "admission": {"max_staleness": 5}, "wanted": {}, "adapters": None}
    described = describe_run(GatewayConfig.parse(settings, "here"), finished=False)
    assert not described.HasField("expire_after")
    assert not described.HasField("adapters")
    assert described.wanted == pb.Wanted()


def test_the_revision_is_the_last_one_that_the_contract_lists():
    *_, listed = Path("proto/leeway/v1/rollout.proto").read_text().partition("// Revisions of this contract")
    numbers = [int(number) for number in re.findall(r"^//   (\d+)  ", listed, re.MULTILINE)]
    assert numbers == list(range(1, CONTRACT_REVISION + 1))
