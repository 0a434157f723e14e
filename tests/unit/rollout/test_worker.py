"""The worker's loop between a scripted gateway and scripted engines: what arrives, what is retried, what is refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from leeway.v1 import rollout_pb2 as pb
from rollout import worker
from rollout.client import decode_ids
from rollout.client.recorded import group_of
from rollout.config import WorkerConfig
from rollout.data.demo_model import DemoShape, write_model
from rollout.data.prompt_cursor import CursorError
from rollout.engine import health_check
from rollout.engine.errors import UnattributedError
from rollout.generation import production_guard
from rollout.generation.withdrawal import REASONS
from rollout.main import run_until_signal
from rollout.tasks.held_out import is_held_out
from rollout.worker import WorkerError
from runtime.rollout_files import all_records
from runtime.rollout_record import text_of
from runtime.trace_context import TRACEPARENT, SpanContext
from tests.service.collector import Collector
from tests.tools.fleet_peers import TOKEN, ScriptedEngine, ScriptedGateway, until
from tests.tools.metric_reference import declared
from tests.tools.published import publish
from tests.tools.scrape import Scrape, probe

EOS = 12


def sorted_answer(prompt: list[int]) -> list[int]:
    """The right answer to a sort prompt: [<bos>, six digits, =]."""
    return [*sorted(prompt[1:-1]), EOS]


class Scene:
    """A worker's peers, its model, and one directory for all its files."""

    def __init__(self, directory: Path, gateway: ScriptedGateway, engines: list[ScriptedEngine]) -> None:
        self.directory = directory
        self.gateway = gateway
        self.engines = engines
        self.model = directory / "model"
        write_model(self.model, 0, DemoShape(layers=1, hidden=32, ffn=32))
        (directory / "token").write_text(TOKEN + "\n")

    def config(self, **changes: Any) -> WorkerConfig:
        values = {
            "gateway": self.gateway.address,
            "token_file": self.directory / "token",
            "model": self.model,
            "state_dir": self.directory / "state",
            "log_dir": self.directory / "logs",
            "allowed_uris": [(self.directory / "weights").as_uri()],
            "groups_per_request": 2,
            "requests": 1,
            "record": {"every_s": 0.01},
            "engine": {"urls": [engine.url for engine in self.engines], "request_timeout_s": 5},
            "sampling": {"responses": 3, "max_new_tokens": 7},
        }
        return WorkerConfig.parse({**values, **changes}, source="test")

    def publish(self, version: int) -> pb.Policy:
        policy = publish(self.model, self.directory / "weights", version)
        self.gateway.publish(policy)
        return policy

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows("metrics/worker-0.jsonl") if row["kind"] == kind]

    @contextlib.asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[asyncio.Task[None]]:
        """A running worker. Cancelled at the end; what it raised before that is raised here."""
        task = asyncio.create_task(run_until_signal(self.config(**changes)))
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(health_check, "_EVERY_S", 0.2)
    monkeypatch.setattr(health_check, "_LIMIT_S", 0.3)
    monkeypatch.setattr(health_check, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(worker, "_PROGRESS_S", 0.1)
    gateway = await ScriptedGateway().start()
    gateway.run.vocab_size = 16
    engines = [await ScriptedEngine().start() for _ in range(2)]
    for engine in engines:
        engine.answer = sorted_answer
    gateway.grant = 2
    yield Scene(tmp_path, gateway, engines)
    await gateway.stop()
    for engine in engines:
        with contextlib.suppress(AssertionError):
            await engine.stop()


def trace_of(group: pb.Group) -> str:
    return group.group_id.replace("-", "")


async def test_groups_arrive_whole_and_are_logged(scene: Scene):
    async with scene.worker(engine={"urls": [scene.engines[0].url]}):
        await until(lambda: bool(scene.gateway.known), "watch")
        assert scene.gateway.leases == []  # nothing is promised before there is something to generate with
        scene.publish(0)
        await until(lambda: len(scene.gateway.received) >= 6, "six groups")
        scene.publish(1)
        later = len(scene.gateway.received)
        spans = lambda request: {span.version for r in request.group.responses for span in r.spans}  # noqa: E731
        await until(lambda: any(spans(request) == {1} for request in scene.gateway.received[later:]), "version 1")
        await until(lambda: any(row["groups_accepted"] >= 6 for row in scene.events("progress")), "progress")
    request = scene.gateway.received[0]
    assert request.lease_id == "lease-1"
    group = request.group
    assert (group.task, group.temperature, len(group.responses)) == ("sort", 1.0, 3)
    prompt = decode_ids(group.prompt_tokens)
    for response in group.responses:
        assert decode_ids(response.tokens) == sorted_answer(prompt)
        assert response.reward == 1.0
        assert response.finish_reason == pb.FINISH_REASON_STOP
        assert [(span.version, span.start, span.end) for span in response.spans] == [(0, 0, 7)]
    assert scene.gateway.leases[0].running_version == 0
    assert len({request.group.prompt_id for request in scene.gateway.received}) > 1
    progress = scene.events("progress")[-1]
    assert progress["tokens_generated"] == 21 * progress["groups_generated"]
    assert (progress["reward"], progress["engines_serving"]) == (1.0, 1)
    assert [row["version"] for row in scene.events("refit")] == [0, 1]
    assert [row["state"] for row in scene.events("engine")] == ["starting", "stale", "serving"]
    recorded = {one.group_id: one for one in all_records(scene.directory / "rollouts")}[group.group_id]
    assert text_of(recorded.prompt) == "".join(map(str, prompt[1:-1])) + "="
    answer = "".join(map(str, sorted(prompt[1:-1])))
    assert [(text_of(one.turns), one.reward) for one in recorded.responses] == [(answer, 1.0)] * 3
    again = group_of(recorded, new_id=False)
    again.created_at.CopyFrom(group.created_at)
    assert again == group


async def test_groups_are_followed_into_their_metadata_and_versions_into_the_engines(scene: Scene):
    with Collector.open() as collector:
        traced = {"endpoint": collector.endpoint, "sample": 1.0}
        async with scene.worker(engine={"urls": [scene.engines[0].url]}, traces=traced):
            policy = scene.publish(0)
            await until(lambda: bool(scene.gateway.received), "a group")
            group = scene.gateway.received[0].group
            followed = lambda: {span.name for span in collector.spans if span.trace == trace_of(group)}  # noqa: E731
            # its ack has to arrive before the worker is cancelled: until then "submit" and "group" are open
            await until(lambda: "group" in followed() and bool(collector.named("refit")), "the spans")
    place = SpanContext.parse(group.metadata[TRACEPARENT])
    assert place is not None
    assert place.trace_id == trace_of(group)
    spans = {span.name: span for span in collector.spans if span.trace == place.trace_id}
    assert {"group", "generate", "reward", "submit"} == spans.keys()
    assert place.span_id == spans["submit"].span
    (refit,) = collector.named("refit")
    assert (refit.trace, refit.parent) == (policy.manifest_sha256[:32], policy.manifest_sha256[32:48])


async def test_acknowledged_prompts_are_not_asked_again_after_a_restart_and_the_others_are(scene: Scene):
    scene.publish(0)
    unanswered: list[str] = []

    def leave_every_third(group: pb.Group) -> pb.Ack | None:
        if len(scene.gateway.received) % 3 == 0:
            unanswered.append(group.prompt_id)
            return None
        return pb.Ack(outcome=pb.OUTCOME_ACCEPTED)

    scene.gateway.decide = leave_every_third
    async with scene.worker():
        await until(lambda: len(scene.gateway.received) >= 12, "twelve groups")
    accepted = {row["group_id"] for row in scene.rows("state/worker-0.acked.jsonl")}
    first = {request.group.prompt_id for request in scene.gateway.received if request.group.group_id in accepted}
    scene.gateway.received.clear()
    scene.gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_ACCEPTED)
    async with scene.worker():
        again = lambda: {request.group.prompt_id for request in scene.gateway.received}  # noqa: E731
        await until(
            lambda: set(unanswered) <= again() and len(scene.gateway.received) >= 12, "what was not acknowledged"
        )
    assert not first & again()


async def test_a_worker_whose_run_finishes_returns_and_keeps_the_prompts_whose_groups_came_too_late(scene: Scene):
    scene.publish(0)
    late: list[str] = []

    def too_late_after_four(group: pb.Group) -> pb.Ack:
        if len(scene.gateway.received) <= 4:
            return pb.Ack(outcome=pb.OUTCOME_ACCEPTED)
        late.append(group.prompt_id)
        return pb.Ack(outcome=pb.OUTCOME_RETRY, reason="run_finished", retry_after_ms=3_600_000)

    scene.gateway.decide = too_late_after_four
    async with scene.worker() as worker:
        await until(lambda: len(late) >= 2, "groups that came too late")
        scene.gateway.finish()
        await asyncio.wait_for(worker, 60)
    accepted = {row["group_id"] for row in scene.rows("state/worker-0.acked.jsonl")}
    assert accepted == {request.group.group_id for request in scene.gateway.received[:4]}
    before = set(late)
    scene.gateway.finished = False
    scene.gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_ACCEPTED)
    scene.gateway.received.clear()
    async with scene.worker():
        await until(
            lambda: before <= {request.group.prompt_id for request in scene.gateway.received}, "the prompts again"
        )


async def test_rejected_groups_are_counted_and_not_regenerated(scene: Scene):
    scene.publish(0)
    scene.gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_REJECTED, reason="r", field="f", value="v")
    async with scene.worker(task={"options": {"digits": 12}}):  # so long that no two prompts are equal by chance
        await until(lambda: any(row["groups_rejected"] for row in scene.events("progress")), "rejections counted")
    prompts = [request.group.prompt_id for request in scene.gateway.received]
    assert len(set(prompts)) == len(prompts)


def with_experts(engine: ScriptedEngine, body: dict[str, Any]) -> web.Response:
    """Right answers that say which experts the tokens went to: 64 of 300 in one layer, 128 bytes a token."""
    results: list[dict[str, Any]] = []
    for prompt in body["input_ids"]:
        tokens = sorted_answer(prompt)
        ids = np.tile(np.arange(64, dtype="<i4"), (len(prompt) + len(tokens) - 1, 1))
        meta = {
            "finish_reason": {"type": "stop"}, "weight_version": engine.version, "prompt_tokens": len(prompt),
            "weight_versions": [{"version": engine.version, "start": 0, "end": len(tokens)}],
            "routed_experts": base64.b64encode(ids.tobytes()).decode(),
        }  # fmt: skip
        results.append({"output_ids": tokens, "meta_info": meta})
    return web.json_response(results)


@pytest.mark.parametrize(("most", "dropped"), [(4096, True), (16 << 20, False)])
async def test_a_group_that_its_experts_make_too_large_is_sent_without_them(scene: Scene, most: int, dropped: bool):
    """Rejecting it would teach the policy from short responses alone."""
    config = json.loads((scene.model / "config.json").read_text())
    mixture = config | {"num_experts": 300, "num_experts_per_tok": 64}
    (scene.model / "config.json").write_text(json.dumps(mixture))
    engine = scene.engines[0]
    engine.reply = lambda body: with_experts(engine, body)
    scene.gateway.run.routing.CopyFrom(pb.RoutedExperts(layers=[0], top_k=64, experts=300))
    scene.publish(0)
    settings = {"urls": [engine.url], "return_routed_experts": True}
    address = free_address()
    with capture_logs() as logs:
        async with scene.worker(engine=settings, max_message_bytes=most, status={"listen": address}):
            await until(lambda: len(scene.gateway.received) >= 4, "four groups")
            counted = (await asyncio.to_thread(Scrape, address)).value(
                "leeway_worker_routed_responses_total", record="too_large"
            )
    records = [
        response.HasField("routed_experts")
        for request in scene.gateway.received
        for response in request.group.responses
    ]
    assert set(records) == {not dropped}
    assert counted is not None
    assert (counted >= 12) == dropped
    assert dropped or counted == 0
    assert [one["event"] for one in logs].count("group rejected") == 0
    assert len([one for one in logs if one.get("reason") == "max_message_bytes"]) == dropped


async def test_a_place_that_is_not_allowed_is_refused_whatever_the_gateway_says(scene: Scene):
    elsewhere = publish(scene.model, scene.directory / "elsewhere", 0)
    async with scene.worker():
        scene.gateway.publish(elsewhere)
        await until(lambda: bool(scene.events("refused")), "refusal")
        scene.publish(1)
        await until(lambda: bool(scene.gateway.received), "a group")
    (refused,) = scene.events("refused")
    assert refused["reason"].startswith(f"policy.uri: {elsewhere.uri!r} is below none of allowed_uris = ")
    assert [row["version"] for row in scene.events("refit")] == [1, 1]
    assert set(scene.gateway.fetching) == {0, 1}


async def test_a_version_that_cannot_be_fetched_at_first_is_fetched_later(scene: Scene):
    policy = publish(scene.model, scene.directory / "weights", 0)
    (scene.directory / "weights").rename(scene.directory / "away")
    async with scene.worker():
        scene.gateway.publish(policy)
        await until(lambda: bool(scene.events("fetch_failed")), "failure")
        (scene.directory / "away").rename(scene.directory / "weights")
        await until(lambda: bool(scene.gateway.received), "a group")
    assert scene.events("fetch_failed")[0]["version"] == 0
    assert not scene.events("refused")


async def test_a_damaged_version_is_refused_and_the_next_one_taken(scene: Scene):
    scene.publish(0)
    async with scene.worker():
        await until(lambda: bool(scene.gateway.received), "groups")
        damaged = publish(scene.model, scene.directory / "weights", 1)
        with (scene.directory / "weights/weight_v000001/model.safetensors").open("ab") as file:
            file.write(b"x")
        scene.gateway.publish(damaged)
        await until(lambda: bool(scene.events("refused")), "refusal")
        before = len(scene.gateway.received)
        await until(lambda: len(scene.gateway.received) > before + 4, "groups after the refusal")
        scene.publish(2)
        await until(lambda: scene.engines[0].version == "2", "version 2")
    (refused,) = scene.events("refused")
    assert refused["version"] == 1
    assert refused["reason"].startswith("files[model.safetensors].size: ")
    spans = {span.version for request in scene.gateway.received for r in request.group.responses for span in r.spans}
    assert 1 not in spans


async def test_a_dead_engine_is_done_without_and_serves_again_only_after_a_refit(scene: Scene):
    scene.publish(0)
    dying = scene.engines[0]
    async with scene.worker():
        await until(lambda: all("/generate" in engine.calls for engine in scene.engines), "both engines at work")
        await dying.stop()
        dying.calls.clear()
        before = len(scene.gateway.received)
        await until(lambda: len(scene.gateway.received) > before + 6, "groups from the other engine")
        scene.publish(1)
        await until(lambda: scene.engines[1].version == "1", "version 1")
        await dying.start()
        await until(lambda: "/generate" in dying.calls, "work for the restarted engine")
    assert dying.calls[0] == "/update_weights_from_disk"
    assert dying.version == "1"
    states = [row["state"] for row in scene.events("engine") if row["engine"] == 0]
    assert states[:6] == ["starting", "stale", "serving", "dead", "starting", "stale"]
    ids = [request.group.group_id for request in scene.gateway.received]
    assert len(set(ids)) == len(ids)


async def test_an_engine_that_hangs_holds_nobody_up(scene: Scene):
    scene.publish(0)
    scene.engines[0].status = scene.engines[0].health = 0
    engine = {"urls": [engine.url for engine in scene.engines], "request_timeout_s": 0.3}
    states = lambda: [row["state"] for row in scene.events("engine") if row["engine"] == 0]  # noqa: E731
    async with scene.worker(engine=engine, requests=2):
        await until(lambda: "dead" in states(), "end of the hanging engine")
        before = len(scene.gateway.received)
        await until(lambda: len(scene.gateway.received) >= before + 20, "twenty groups")


async def test_no_lease_no_work(scene: Scene):
    scene.gateway.grant = 0
    scene.publish(0)
    async with scene.worker():
        await until(lambda: len(scene.gateway.leases) >= 3, "three requests for a lease")
        assert all("/generate" not in engine.calls for engine in scene.engines)
        scene.gateway.grant = 1
        await until(lambda: bool(scene.gateway.received), "a group")


async def test_the_leases_of_slow_groups_are_renewed_until_the_groups_have_arrived(scene: Scene):
    scene.publish(0)
    scene.gateway.decide = lambda _: None  # generated, and not acknowledged
    async with scene.worker():
        await until(lambda: bool(scene.gateway.renewals), "a renewal")
        (first, *_) = scene.gateway.renewals
        assert "lease-1" in first.held_lease_ids
        assert (first.groups, first.running_version, first.worker) == (0, 0, "worker-0")
        again = lambda: sum("lease-1" in renewal.held_lease_ids for renewal in scene.gateway.renewals)  # noqa: E731
        await until(lambda: again() >= 2, "another renewal")


async def test_capacity_that_rejected_groups_did_not_use_is_given_back(scene: Scene):
    scene.publish(0)
    scene.gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_REJECTED, reason="r", field="f", value="v")
    async with scene.worker():
        returned = lambda: {one for lease in scene.gateway.leases for one in lease.returned_lease_ids}  # noqa: E731
        await until(lambda: "lease-1" in returned(), "the lease given back")


async def test_requests_that_all_come_to_nothing_end_the_worker(scene: Scene):
    scene.publish(0)
    for engine in scene.engines:
        engine.status = 400
    with pytest.raises(ExceptionGroup) as error:
        await run_until_signal(scene.config())
    assert error.group_contains(WorkerError, match="no engine could answer 10 requests in a row; the last: .*HTTP 400")
    assert any(lease.returned_lease_ids for lease in scene.gateway.leases)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def withdrawn(address: str) -> dict[str, float]:
    """Reads the groups withdrawn so far, by reason; reasons without any are left out."""
    page = await asyncio.to_thread(Scrape, address)
    name = "leeway_worker_withdrawn_groups_total"
    return {reason: value for reason in REASONS if (value := page.value(name, reason=reason))}


async def test_aborted_responses_withdraw_their_group_alone_and_give_its_capacity_back(scene: Scene):
    scene.publish(0)
    dropped: set[int] = set()

    def every_other_prompt(prompt: list[int]) -> dict[str, Any]:
        first = prompt[-2]  # the last digit of the index: the two prompts of a request differ in it
        if first % 2:
            return {"type": "stop", "matched": EOS}
        dropped.add(int("".join(map(str, prompt[1:-1]))) - 1_000_000)
        return {"type": "abort", "message": "scripted"}

    for engine in scene.engines:
        engine.finish = every_other_prompt
    address = free_address()
    task = {"name": "tests.tools.fleet_tasks:Flaky", "options": {"every": 1 << 40}}
    async with scene.worker(task=task, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 12, "twelve groups")
        returned = lambda: {one for lease in scene.gateway.leases for one in lease.returned_lease_ids}  # noqa: E731
        await until(lambda: len(returned()) >= 12, "twelve leases returned")
        counts = await withdrawn(address)
    submitted = {request.group.prompt_id for request in scene.gateway.received}
    assert counts.keys() == {"aborted"}
    assert counts["aborted"] >= 12
    assert not submitted & {f"flaky:{index}" for index in dropped}
    assert returned() <= {request.lease_id for request in scene.gateway.received}


async def test_a_prompt_that_the_engine_refuses_withdraws_its_group_alone(scene: Scene):
    scene.publish(0)

    def refuse_even(body: dict[str, Any]) -> web.Response | None:
        refused = [prompt for prompt in body["input_ids"] if not prompt[-2] % 2]  # every other prompt
        return web.json_response({"error": "scripted"}, status=400) if refused else None

    for engine in scene.engines:
        engine.reply = refuse_even
    address = free_address()
    task = {"name": "tests.tools.fleet_tasks:Flaky", "options": {"every": 1 << 40}}
    async with scene.worker(task=task, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 12, "twelve groups")
        counts = await withdrawn(address)
        page = await asyncio.to_thread(Scrape, address)
    assert counts.keys() == {"refused"}
    assert page.value("leeway_worker_skipped_prompts_total") == 0
    assert "dead" not in {row["state"] for row in scene.events("engine")}


async def test_prompts_that_are_all_too_long_end_the_worker_without_a_request(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(production_guard, "TOO_LONG", 20)
    scene.publish(0)
    for engine in scene.engines:
        engine.info = {"context_length": 14}  # prompts of 8 tokens, and 7 for the response
    with pytest.raises(ExceptionGroup) as error:
        await run_until_signal(scene.config())
    message = "2[01] prompts in a row are too long; the last: .*8 tokens, and sampling.max_new_tokens = 7"
    assert error.group_contains(WorkerError, match=message)
    assert all("/generate" not in engine.calls for engine in scene.engines)


async def test_engines_that_name_no_version_end_the_worker_once_and_clearly(scene: Scene):
    scene.publish(0)
    meta = {"finish_reason": {"type": "stop"}, "weight_version": "0"}
    for engine in scene.engines:
        engine.reply = lambda body: web.json_response([{"output_ids": [1], "meta_info": meta}] * len(body["input_ids"]))
    with pytest.raises(ExceptionGroup) as error:
        await run_until_signal(scene.config())
    assert error.group_contains(UnattributedError, match="nobody can say which version generated which token")
    assert "dead" not in {row["state"] for row in scene.events("engine")}


async def test_a_lease_is_not_given_back_while_a_group_that_uses_it_is_under_way(scene: Scene):
    scene.publish(0)
    scene.gateway.decide = lambda _: (
        None if len(scene.gateway.received) == 1 else pb.Ack(outcome=pb.OUTCOME_ACCEPTED)  # the first is never answered
    )
    for engine in scene.engines:
        engine.finish = lambda prompt: {"type": "stop"} if prompt[-2] % 2 else {"type": "abort"}
    task = {"name": "tests.tools.fleet_tasks:Flaky", "options": {"every": 1 << 40}}
    async with scene.worker(task=task):
        returned = lambda: {one for lease in scene.gateway.leases for one in lease.returned_lease_ids}  # noqa: E731
        await until(lambda: len(returned()) >= 6, "six leases returned")
    assert scene.gateway.received[0].lease_id not in returned()


async def test_an_engine_whose_logits_are_not_finite_is_restarted_and_nothing_of_it_is_submitted(scene: Scene):
    scene.publish(0)
    ill = scene.engines[0]
    asked = 0

    def first_one_bad(_: list[int]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "stop", "matched": "NaN happened" if asked == 1 else EOS}

    ill.finish = first_one_bad
    ill.answer = lambda prompt: [9, EOS] if asked == 0 else sorted_answer(prompt)
    address = free_address()
    states = lambda: [row["state"] for row in scene.events("engine") if row["engine"] == 0]  # noqa: E731
    async with scene.worker(status={"listen": address}):
        await until(lambda: states().count("serving") >= 2, "the engine to serve again")
        before = len(scene.gateway.received)
        await until(lambda: len(scene.gateway.received) >= before + 6, "groups")
        counts = await withdrawn(address)
    assert counts == {"nan": 2.0}
    assert states()[:6] == ["starting", "stale", "serving", "dead", "starting", "stale"]
    assert all(one.reward == 1.0 for request in scene.gateway.received for one in request.group.responses)


async def test_engines_whose_logits_are_never_finite_end_the_worker(scene: Scene):
    scene.publish(0)
    for engine in scene.engines:
        engine.finish = lambda _: {"type": "stop", "matched": "NaN happened"}
    with pytest.raises(ExceptionGroup) as error:
        await run_until_signal(scene.config())
    assert error.group_contains(WorkerError, match="no engine could answer 10 requests.*logits were not finite")
    assert not scene.gateway.received


@pytest.mark.parametrize("policy", ["train", "withdraw"])
async def test_truncated_responses_are_counted_and_trained_or_withdrawn(scene: Scene, policy: str):
    scene.publish(0)
    for engine in scene.engines:
        engine.finish = lambda prompt: {"type": "length"} if prompt[-2] % 2 else {"type": "stop", "matched": EOS}
    address = free_address()
    sampling = {"responses": 3, "max_new_tokens": 7, "truncated": policy}
    async with scene.worker(sampling=sampling, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 20, "twenty groups")
        page = await asyncio.to_thread(Scrape, address)
        counts = await withdrawn(address)
    finishes = {one.finish_reason for request in scene.gateway.received for one in request.group.responses}
    truncated = page.value("leeway_worker_truncated_responses_total") or 0
    wasted = page.value("leeway_worker_wasted_tokens_total", reason="truncated") or 0
    assert truncated > 0
    assert truncated % 3 == 0
    assert (wasted > 0) == (policy == "withdraw")
    if policy == "train":
        assert finishes == {pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH}
        assert counts == {}
    else:
        assert finishes == {pb.FINISH_REASON_STOP}
        assert counts.keys() == {"truncated"}


async def test_a_token_that_only_the_engine_knows_as_its_end_is_no_part_of_the_answer(scene: Scene):
    scene.publish(0)
    for engine in scene.engines:
        engine.answer = lambda prompt: [*sorted(prompt[1:-1]), 13]
        engine.finish = lambda _: {"type": "stop", "matched": 13}
    async with scene.worker():
        await until(lambda: len(scene.gateway.received) >= 4, "groups")
    assert all(one.reward == 1.0 for request in scene.gateway.received for one in request.group.responses)


async def test_a_prompt_that_cannot_be_scored_is_skipped_and_the_worker_goes_on(scene: Scene):
    scene.publish(0)
    address = free_address()
    task = {"name": "tests.tools.fleet_tasks:Flaky", "options": {"every": 3}}
    async with scene.worker(task=task, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 30, "thirty groups")
        await until(lambda: any(lease.returned_lease_ids for lease in scene.gateway.leases), "a lease returned")
        counts = await withdrawn(address)
        await until(lambda: any(row["groups_withdrawn"] for row in scene.events("progress")), "progress")
    assert counts.keys() == {"reward_error"}
    indices = [int(request.group.prompt_id.partition(":")[2]) for request in scene.gateway.received]
    assert not [index for index in indices if index % 3 == 0]
    assert len(set(indices)) == len(indices)
    assert json.loads((scene.directory / "state/worker-0.Flaky.cursor.json").read_text())["watermark"] > 20


async def test_a_task_that_can_score_hardly_anything_ends_the_worker_with_its_error(scene: Scene):
    scene.publish(0)
    task = {"name": "tests.tools.fleet_tasks:Flaky", "options": {"every": 1}}
    with pytest.raises(ExceptionGroup) as error:
        await run_until_signal(scene.config(task=task))
    message = (
        r"20 of the last 20 groups could not be scored; the last: task\.name = 'flaky': reward failed: "
        r"LookupError: scripted at .*fleet_tasks\.py:\d+; prompt 'flaky:\d+', response '\d"
    )
    assert error.group_contains(WorkerError, match=message)
    assert not scene.gateway.received


async def test_the_status_endpoint_says_what_engines_and_groups_do(scene: Scene):
    address = free_address()

    async def get(path: str) -> tuple[int, str]:
        return await asyncio.to_thread(probe, address, path)

    async with scene.worker(status={"listen": address}):
        await until(lambda: bool(scene.gateway.known), "watch")
        assert await get("/readyz") == (503, "no version has been published yet\n")
        assert await get("/healthz") == (200, "ok\n")
        scene.publish(3)
        await until(lambda: all("/generate" in engine.calls for engine in scene.engines), "both engines at work")
        assert await get("/readyz") == (200, "ok\n")
        # Without leases all comes to rest, so that the page's figures are of one moment.
        scene.gateway.grant = 0
        given = scene.gateway.granted
        await until(lambda: any(row["groups_accepted"] == given for row in scene.events("progress")), "acks")
        page = await asyncio.to_thread(Scrape, address)
    prefix = "leeway_worker_"
    assert {name for name in declared() if name.startswith(prefix)} <= set(page.names())
    assert page.value(f"{prefix}engines", state="serving") == 2
    assert page.value(f"{prefix}engine_restarts_total", engine="1") == 0
    assert page.value(f"{prefix}refit_seconds_count") == 2
    assert page.value(f"{prefix}version") == 3
    assert page.value(f"{prefix}ready") == 1
    generated = page.value(f"{prefix}groups_total", stage="generated") or 0
    assert generated == page.value(f"{prefix}groups_total", stage="accepted") == given >= 4
    assert page.value(f"{prefix}responses_total") == 3 * generated
    assert page.value(f"{prefix}tokens_total") == 21 * generated
    assert page.value(f"{prefix}reward") == 1.0
    assert page.value(f"{prefix}reconnects_total") == 0
    assert (page.value(f"{prefix}busy_seconds_total") or 0) > 0


ONE_BY_ONE = {"batch_tokens": 0, "request_timeout_s": 5}


async def test_a_straggler_holds_up_its_own_group_only(scene: Scene):
    scene.publish(0)
    held: set[tuple[int, ...]] = set()
    let_go = asyncio.Event()

    async def hold_the_first(body: dict[str, Any], sent: int) -> bool:
        held.add(tuple(body["input_ids"])) if not held else None
        if sent == 1 and tuple(body["input_ids"]) in held:
            await let_go.wait()
        return False

    (engine, _) = scene.engines
    engine.step = hold_the_first
    scene.gateway.grant = 8
    prompts = lambda: {tuple(decode_ids(one.group.prompt_tokens)) for one in scene.gateway.received}  # noqa: E731
    async with scene.worker(engine={"urls": [engine.url], **ONE_BY_ONE, "request_timeout_s": 60}):
        await until(lambda: len(prompts()) >= 20, "twenty groups")
        assert not held & prompts()
        let_go.set()
        await until(lambda: held <= prompts(), "the straggler's group")
    group = next(one.group for one in scene.gateway.received if tuple(decode_ids(one.group.prompt_tokens)) in held)
    assert [decode_ids(one.tokens) for one in group.responses] == [sorted_answer(list(*held))] * 3


async def test_responses_that_cannot_be_judged_are_sent_unscored_and_counted(scene: Scene):
    scene.publish(0)
    count = 0

    def one_of_three(prompt: list[int]) -> list[int]:
        nonlocal count
        count += 1
        return [2 if count % 3 == 0 else 1, EOS]

    scene.engines[0].answer = one_of_three
    address = free_address()
    task = {"name": "tests.tools.fleet_tasks:HalfJudged"}
    async with scene.worker(task=task, engine={"urls": [scene.engines[0].url]}, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 10, "ten groups")
        page = await asyncio.to_thread(Scrape, address)
        counts = await withdrawn(address)
    for request in scene.gateway.received:
        unscored = [one for one in request.group.responses if one.unscored]
        assert [(one.unscored, decode_ids(one.tokens)) for one in unscored] == [("reward_error", [2, EOS])]
        assert [one.reward for one in request.group.responses if not one.unscored] == [1.0, 1.0]
    assert (page.value("leeway_worker_unscored_responses_total", reason="reward_error") or 0) >= 8
    assert page.value("leeway_worker_reward") == 1.0
    assert counts == {}


def agents(scene: Scene, task: dict[str, Any]) -> dict[str, Any]:
    """Settings of a worker whose responses are episodes."""
    return {"task": {"prompts": "sort", **task}, "engine": {"urls": [scene.engines[0].url]}}


def require_two_turns(group: pb.Group) -> None:
    """Raises AssertionError unless every response has the agent's own token between two generations of the model."""
    prompt = decode_ids(group.prompt_tokens)
    first = sorted_answer(prompt)
    second = sorted_answer([*prompt, *first, 5])[:7]
    for response in group.responses:
        assert decode_ids(response.tokens) == [*first, 5, *second]
        assert [(span.version, span.start, span.end) for span in response.spans] == [(0, 0, 7), (0, 8, 15)]
        assert response.reward == 1.0


async def test_an_agent_plays_its_episodes_through_the_endpoint(scene: Scene):
    scene.publish(0)
    address = free_address()
    changes = agents(scene, {"name": "tests.tools.fleet_tasks:two_turns"})
    async with scene.worker(**changes, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 6, "six groups")
        page = await asyncio.to_thread(Scrape, address)
    for request in scene.gateway.received:
        require_two_turns(request.group)
        assert request.group.task == "two_turns"
    assert (page.value("leeway_worker_episodes_total", outcome="scored") or 0) >= 15
    assert (page.value("leeway_worker_segments_total", opening="first") or 0) >= 15
    assert (page.value("leeway_worker_episode_turns_total") or 0) >= 30
    assert not list((scene.directory / "state").glob("*.socket"))


async def test_an_agent_elsewhere_plays_episodes_that_it_asks_for(scene: Scene):
    scene.publish(0)
    token = scene.directory / "agents-token"
    token.write_text("for agents")
    listen = free_address()
    endpoint = {"listen": listen, "remote_token_file": token}
    async with (
        scene.worker(**agents(scene, {"remote": True}), endpoint=endpoint),
        aiohttp.ClientSession(f"http://{listen}") as session,
    ):

        async def post(path: str, key: str, **body: Any) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {key}"}
            async with session.post(path, json=body, headers=headers) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        async def reachable() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get("/healthz") as response:
                    return response.status == 200
            return False

        while not await reachable():  # noqa: ASYNC110 - it is another program's
            await asyncio.sleep(0.05)
        while len(scene.gateway.received) < 2:
            episode = await post("/v1/episodes", "for agents", wait_s=60)
            prompt = [14, *map(int, episode["prompt"][:-1]), 11]
            first = await post("/v1/completions", episode["key"], prompt=prompt, model="policy")
            context = [*prompt, *first["leeway"]["token_ids"], 5]
            await post("/v1/completions", episode["key"], prompt=context, model="policy")
            await post(f"/v1/episodes/{episode['key']}/reward", episode["key"], reward=1.0)
    for request in scene.gateway.received:
        require_two_turns(request.group)


async def test_a_worker_that_ends_in_the_midst_of_episodes_leaves_no_half_group_and_no_process(scene: Scene):
    scene.publish(0)
    command = ["python", "-c", "import time; time.sleep(3600)"]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    mine = lambda: {child.pid for child in psutil.Process().children(recursive=True)} - before  # noqa: E731
    async with scene.worker(**agents(scene, {"command": command})):
        await until(lambda: sum("time.sleep(3600)" in " ".join(one) for one in commands(mine())) >= 3, "three programs")
    assert scene.gateway.received == []
    await until(lambda: not mine(), "the end of all processes")


def commands(pids: set[int]) -> list[list[str]]:
    """Command lines of processes, of those that are still there."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid).cmdline())
    return found


MIXTURE = [
    {"name": "sort", "label": "long", "weight": 3.0, "held_out": 0.25},
    {"name": "sort", "label": "short", "options": {"digits": 4}},
]


@pytest.mark.parametrize("batch_tokens", [64, 0], ids=["batches", "one by one"])
async def test_a_mixture_is_asked_by_weight_and_goes_on_with_its_shares(scene: Scene, batch_tokens: int):
    scene.publish(0)
    scene.gateway.grant = 4
    engine = {"urls": [one.url for one in scene.engines], "request_timeout_s": 5, "batch_tokens": batch_tokens}
    changes = {"task": MIXTURE, "engine": engine, "groups_per_request": 4}
    for start in range(2):
        received, address = len(scene.gateway.received), free_address()
        async with scene.worker(**changes, status={"listen": address}):
            await until(lambda least=received + 40: len(scene.gateway.received) >= least, "forty groups")
            page = await asyncio.to_thread(Scrape, address)
        groups = [request.group for request in scene.gateway.received[received:]]
        # What was made and not acknowledged when the worker ended is asked again.
        assert abs([group.task for group in groups].count("short") - len(groups) / 4) < 4, start
    groups = [request.group for request in scene.gateway.received]
    assert {len(decode_ids(group.prompt_tokens)) for group in groups if group.task == "long"} == {8}
    assert {len(decode_ids(group.prompt_tokens)) for group in groups if group.task == "short"} == {6}
    assert not [group for group in groups if group.task == "long" and is_held_out(group.prompt_id, 0.25)]
    assert (page.value("leeway_worker_task_groups_total", task="long", outcome="no_contrast") or 0) >= 25
    assert (page.value("leeway_worker_task_groups_total", task="short", outcome="no_contrast") or 0) >= 8
    assert page.value("leeway_worker_task_groups_total", task="short", outcome="contrast") == 0
    assert (page.value("leeway_worker_passed_over_prompts_total", task="long", reason="held_out") or 0) >= 3
    assert page.value("leeway_worker_passed_over_prompts_total", task="short", reason="held_out") == 0
    assert page.value("leeway_worker_task_reward", task="long") == 1.0
    names = {path.name for path in (scene.directory / "state").glob("*.json")}
    assert {"worker-0.long.cursor.json", "worker-0.short.cursor.json", "worker-0.shares.json"} <= names


async def test_agents_and_single_turns_share_the_engines(scene: Scene):
    scene.publish(0)
    two_turns = {"name": "tests.tools.fleet_tasks:two_turns", "prompts": "sort"}
    mixture = [{"name": "sort"}, two_turns, {**two_turns, "label": "other_turns"}]
    async with scene.worker(task=mixture, engine={"urls": [scene.engines[0].url]}):
        await until(lambda: len({request.group.task for request in scene.gateway.received}) == 3, "groups of each")
    groups = [request.group for request in scene.gateway.received]
    for group in groups:
        if group.task == "sort":
            assert {len(decode_ids(response.tokens)) for response in group.responses} == {7}
        else:
            require_two_turns(group)


async def test_a_changed_task_of_a_mixture_is_refused_and_the_others_are_not_asked(scene: Scene):
    scene.publish(0)
    async with scene.worker(task=MIXTURE):
        await until(lambda: len(scene.gateway.received) >= 8, "eight groups")
        await until(lambda: (scene.directory / "state/worker-0.short.cursor.json").exists(), "a cursor")
    ended = time.time()
    with pytest.raises(CursorError, match=r"worker-0\.short\.cursor\.json: .*task\.options\.digits is 5, was 4"):
        await asyncio.wait_for(
            run_until_signal(scene.config(task=[MIXTURE[0], {**MIXTURE[1], "options": {"digits": 5}}])), 60
        )
    # A group that was on its way when the first worker ended may be sent again.
    assert max(request.group.created_at.ToMicroseconds() for request in scene.gateway.received) <= ended * 1e6


async def test_prompts_that_teach_nothing_rest_and_are_remembered(scene: Scene):
    data = scene.directory / "questions.jsonl"
    data.write_text("".join(f'{{"question": "{one}", "answer": "#### {one}"}}\n' for one in range(6)))
    scene.publish(0)
    address = free_address()
    task = {
        "name": "gsm8k",
        "options": {"path": str(data), "instruction": ""},
        "rest": {"after": 1, "passes": 3},
        "reward_timeout_s": 60,
    }
    sampling = {"responses": 3, "max_new_tokens": 7}
    for engine in scene.engines:
        engine.answer = lambda _: [1, EOS]
    async with scene.worker(task=task, sampling=sampling, status={"listen": address}):
        await until(lambda: len(scene.gateway.received) >= 12, "twelve groups")
        page = await asyncio.to_thread(Scrape, address)
    assert page.value("leeway_worker_task_groups_total", task="gsm8k", outcome="contrast") == 0
    resting = {
        kind: page.value("leeway_worker_resting_prompts", task="gsm8k", reason=kind) for kind in ("solved", "hopeless")
    }
    assert sum(count or 0 for count in resting.values()) == 6
    assert (page.value("leeway_worker_passed_over_prompts_total", task="gsm8k", reason="hopeless") or 0) >= 5
    assert (page.value("leeway_worker_rests_cut_short_total", task="gsm8k") or 0) >= 1
    lines: list[Any] = scene.rows("state/worker-0.gsm8k.memory.jsonl")
    rows = [line for line in lines if isinstance(line, list)]
    assert {row[0] for row in rows} == set(range(6))


async def test_a_rest_of_prompts_that_never_end_is_said_to_have_no_effect(scene: Scene):
    scene.publish(0)
    with capture_logs() as logs:
        async with scene.worker(task={"name": "sort", "rest": {"after": 2}}):
            await until(lambda: bool(scene.gateway.received), "a group")
    assert "task.rest has no effect: prompts that never end do not come back" in [line["event"] for line in logs]
    assert not list((scene.directory / "state").glob("*.memory.jsonl"))
