"""A worker whose groups would all be rejected says so before it generates one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from rollout.config import EngineConfig, TaskConfig, WorkerConfig
from rollout.engine.adapters import AdapterLimits
from rollout.generation.run_agreement import adapters_to_load, agreed_run, disagreements, unheeded
from runtime.settings import SettingsError
from tests.tools.fleet_peers import TOKEN, ScriptedGateway


@dataclass
class Ids:
    vocab_size: int = 100
    largest_id: int = 89


RUN = pb.DescribeRunResponse(
    vocab_size=90, min_group_size=4, max_group_size=8, min_temperature=0.7, max_temperature=1.5, max_response_tokens=64,
    max_message_bytes=1000,
)  # fmt: skip


def worker(gateway: str = "gateway:1", **sampling: Any) -> WorkerConfig:
    settings = {
        "gateway": gateway,
        "model": "/model",
        "state_dir": "/state",
        "log_dir": "/logs",
        "allowed_uris": ["file:///weights"],
        "max_message_bytes": 1000,
        "sampling": {"max_new_tokens": 64, "responses": 8, **sampling},
    }
    return WorkerConfig.parse(settings, "here")


def test_a_run_without_experts_takes_none_and_one_that_replays_them_wants_them():
    asking = worker().model_copy(update={"engine": EngineConfig(return_routed_experts=True)})
    text = "engine.return_routed_experts = true: the run's model has no experts; set it to false"
    assert list(disagreements(RUN, asking, Ids())) == [text]
    mixture = pb.DescribeRunResponse(routing=pb.RoutedExperts(layers=[0], top_k=1, experts=2))
    mixture.MergeFrom(RUN)
    assert list(disagreements(mixture, asking, Ids())) == []
    wanted = pb.Wanted(routed_experts=True)
    assert list(unheeded(wanted, worker())) == ["engine.return_routed_experts = false: the run's owner wants true"]
    assert list(unheeded(wanted, asking)) == []


@pytest.mark.parametrize(
    "targets", ["q_proj v_proj", "q_proj k_proj v_proj o_proj", "gate_proj", "gate_proj up_proj", "o_proj down_proj"]
)
def test_engines_load_the_adapters_that_they_can(targets: str):
    run = pb.DescribeRunResponse(adapters=pb.AdapterForm(rank=4, targets=targets.split()))
    with capture_logs() as logs:
        assert adapters_to_load(run, worker()) == AdapterLimits(4, tuple(targets.split()))
    assert logs == []
    assert adapters_to_load(RUN, worker()) is None
    merging = worker().model_copy(update={"engine": EngineConfig(adapters=False)})
    assert adapters_to_load(run, merging) is None


@pytest.mark.parametrize(
    "targets",
    [
        "q_proj",
        "q_proj k_proj",
        "q_proj o_proj",
        "v_proj",
        "k_proj v_proj",
        "k_proj",
        "up_proj",
        "q_proj v_proj up_proj",
    ],
)
def test_adapters_that_engines_cannot_load_are_merged_and_that_is_said(targets: str):
    run = pb.DescribeRunResponse(adapters=pb.AdapterForm(rank=4, targets=targets.split()))
    with capture_logs() as logs:
        assert adapters_to_load(run, worker()) is None
    assert [line["targets"] for line in logs] == [targets.split()]


@pytest.mark.parametrize(
    "sampling",
    [{}, {"responses": 4}, {"temperature": 0.7}, {"temperature": 1.5}, {"top_p": 1.0, "top_k": 90, "min_p": 0}],
)
def test_at_the_limits_of_the_run_they_agree(sampling: dict[str, Any]):
    assert list(disagreements(RUN, worker(**sampling), Ids())) == []


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        ({"responses": 3}, "sampling.responses = 3: set it to 4 to 8"),
        ({"responses": 9}, "sampling.responses = 9: set it to 4 to 8"),
        ({"temperature": 0.69}, "sampling.temperature = 0.69: set it to 0.7 to 1.5"),
        ({"max_new_tokens": 65}, "sampling.max_new_tokens = 65: set it to 64 or less"),
        ({"top_p": 0.9}, "sampling.top_p = 0.9: the run takes no truncated sampling; leave it out"),
        ({"top_k": 89}, "sampling.top_k = 89: the run takes no truncated sampling; leave it out"),
        ({"min_p": 0.1}, "sampling.min_p = 0.1: the run takes no truncated sampling; leave it out"),
    ],
)
def test_what_would_be_rejected_is_named(sampling: dict[str, Any], text: str):
    assert list(disagreements(RUN, worker(**sampling), Ids())) == [text]
    taking = pb.DescribeRunResponse()
    taking.CopyFrom(RUN)
    taking.takes_truncated_sampling = True
    assert list(disagreements(taking, worker(**sampling), Ids())) == ([] if "truncated" in text else [text])


def test_too_large_messages_are_named():
    run = pb.DescribeRunResponse()
    run.CopyFrom(RUN)
    run.max_message_bytes = 999
    assert list(disagreements(run, worker(), Ids())) == ["max_message_bytes = 1000: set it to 999 or less"]


@pytest.mark.parametrize(
    ("ids", "agree"),
    [
        (Ids(), True),
        (Ids(largest_id=88), True),  # the gateway was told of rows of the embedding that are padding
        (Ids(vocab_size=90, largest_id=99), True),  # ids beyond the embedding are never sampled
        (Ids(largest_id=90), False),
        (Ids(vocab_size=89, largest_id=50), False),
    ],
)
def test_another_model_is_recognised_by_its_vocabulary(ids: Ids, agree: bool):
    found = list(disagreements(RUN, worker(), ids))
    assert (found == []) is agree
    assert all("model = /model" in text and "below 90" in text for text in found)


def test_what_the_owner_wants_and_does_not_get_is_said():
    wanted = pb.Wanted(temperature=0.8, prompt_format="chat", group_size=4, max_new_tokens=64)
    assert list(unheeded(wanted, worker(temperature=1.0))) == [
        "sampling.temperature = 1: the run's owner wants 0.8",
        "task.prompt_format = raw: the run's owner wants chat",
        "sampling.responses = 8: the run's owner wants 4",
    ]
    assert list(unheeded(pb.Wanted(temperature=0.7, group_size=8), worker(temperature=0.7))) == []
    assert list(unheeded(pb.Wanted(), worker())) == []


def test_of_a_mixture_the_task_that_is_otherwise_is_named():
    tasks = (TaskConfig(name="sort", prompt_format="chat"), TaskConfig(name="add", prompt_format="raw"))
    mixture = worker().model_copy(update={"task": tasks})
    found = list(unheeded(pb.Wanted(prompt_format="chat"), mixture))
    assert found == ["task.1.prompt_format = raw: the run's owner wants chat"]


async def test_a_worker_that_disagrees_ends_and_one_that_agrees_hears_of_wishes():
    gateway = await ScriptedGateway().start()
    gateway.run = RUN
    async with SubmitClient(gateway.address, TOKEN) as client:
        with pytest.raises(SettingsError, match=f"the gateway at {gateway.address} would reject .* = 2: .* = 0.1: "):
            await agreed_run(client, worker(gateway.address, responses=2, temperature=0.1), Ids())
        gateway.run.wanted.group_size = 4
        with capture_logs() as logs:
            assert await agreed_run(client, worker(gateway.address), Ids()) == gateway.run
    assert [line["difference"] for line in logs] == ["sampling.responses = 8: the run's owner wants 4"]
    await gateway.stop()
