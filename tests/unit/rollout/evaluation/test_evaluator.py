"""The evaluator with a scripted gateway and engine: what it evaluates, keeps and reports when things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from rollout.config import EvaluationSampling, EvaluatorConfig, TaskConfig
from rollout.engine.errors import EngineError
from rollout.engine.pool import EnginePool
from rollout.engine.response import VersionSpan
from rollout.episodes.record import SegmentRecord
from rollout.evaluation import evaluator as module
from rollout.evaluation.evaluator import Evaluator, EvaluatorDependencies
from rollout.evaluation.evaluator_metrics import OUTCOMES, EvaluatorMetrics
from rollout.evaluation.generators import Generators
from rollout.evaluation.results import ResultFile
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import Generated, MadeGroup
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score
from rollout.versions.manifest import FetchError, VersionError
from rollout.versions.verifier import Version
from runtime.metric_registry import MetricRegistry


class World:
    """A gateway, an engine and a task, played by a script."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        values = {"every": 1, "task": (TaskConfig(),), "sampling": (EvaluationSampling(),), **settings}
        self.config = EvaluatorConfig(
            model=directory,
            state_dir=directory / "state",
            results=directory / "evaluations.jsonl",
            log_dir=directory,
            **values,
        )
        self.announced: asyncio.Queue[pb.Policy | None] = asyncio.Queue()
        self.kept: list[int] = []
        self.reported: list[tuple[int, str]] = []
        self.gateway_is_up = asyncio.Event()
        self.gateway_is_up.set()
        self.loads = True
        self.loaded: int | None = None
        self.made_by: Callable[[int], int] = lambda version: (
            version
        )  # who makes the tokens while a version is evaluated
        self.verify: Callable[[pb.Policy], Version] = lambda policy: Version(policy.version, directory)
        self.registry = MetricRegistry()

    def announce(self, *versions: int | None) -> None:
        """Announces versions; None ends the run."""
        for version in versions:
            self.announced.put_nowait(None if version is None else pb.Policy(version=version, step=version))

    async def run(self) -> None:
        client, generators = cast(SubmitClient, self), cast(Generators, self)
        dependencies = EvaluatorDependencies(
            client, lambda policy: self.verify(policy), self.open_pool, generators, ResultFile(self.config.results),
            EvaluatorMetrics(self.registry),
        )  # fmt: skip
        async with asyncio.timeout(60):
            await Evaluator(self.config, dependencies).run()

    def outcomes(self) -> dict[str, float]:
        """How evaluations have ended, but for outcomes that did not occur."""
        values = {
            outcome: self.registry.prometheus.get_sample_value(
                "leeway_evaluator_evaluations_total", {"outcome": outcome}
            )
            for outcome in OUTCOMES
        }
        return {outcome: value for outcome, value in values.items() if value}

    # the gateway
    async def watch_policy(self) -> AsyncIterator[pb.Policy]:
        while (policy := await self.announced.get()) is not None:
            yield policy

    async def report_fetching(self, version: int, running: int) -> None:
        self.kept.append(version)

    async def report_evaluation(self, evaluation: pb.Evaluation) -> None:
        await self.gateway_is_up.wait()
        self.reported.append((evaluation.version, evaluation.sampling))

    # the engine
    @contextlib.asynccontextmanager
    async def open_pool(self) -> AsyncIterator[EnginePool]:
        class Pool:
            run = staticmethod(lambda: asyncio.Event().wait())
            running_version = staticmethod(lambda: self.loaded)

            @staticmethod
            async def load(version: Version) -> None:
                self.loaded = version.number if self.loads else None

        yield cast(EnginePool, Pool())

    # the task
    @contextlib.asynccontextmanager
    async def open(self, *_: Any) -> AsyncIterator[tuple[World, list[AskedPrompt]]]:
        yield self, [AskedPrompt(0, 0, Prompt("one", text="?"))]

    async def generate(self, asked: Sequence[AskedPrompt]) -> Generated:
        assert self.loaded is not None
        segment = SegmentRecord([1], [2, 2], [VersionSpan(self.made_by(self.loaded), 0, 2)], "first")
        outcomes = [ResponseOutcome([segment], "stop", Score(1.0))]
        return Generated([MadeGroup(one, [1], outcomes, Withdrawal("other", "")) for one in asked], 0, 0, 0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - files and lists tell nobody
        await asyncio.sleep(0.01)


def evaluated(world: World) -> list[int]:
    return [one.version for one in ResultFile(world.config.results).results]


async def test_every_version_that_is_due_is_kept_evaluated_and_reported(tmp_path: Path):
    world = World(tmp_path)
    world.announce(0, None)
    await world.run()
    assert (evaluated(world), world.reported, world.outcomes()) == ([0], [(0, "greedy")], {"reported": 1})
    assert world.kept == [0]
    assert not (tmp_path / "state" / "evaluator.pending.json").exists()


async def test_tokens_of_another_version_are_counted_and_nothing_is_reported(tmp_path: Path):
    world = World(tmp_path)
    world.made_by = lambda version: version + 1
    world.announce(0, None)
    await world.run()
    assert (evaluated(world), world.reported, world.outcomes()) == ([], [], {"mixed_versions": 1})


@pytest.mark.parametrize("error", [FetchError("policy.uri", "not there"), VersionError("files", "damaged")])
async def test_a_version_that_cannot_be_had_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: VersionError
):
    monkeypatch.setattr(module, "_FETCH_PAUSE_S", 0.0)
    world = World(tmp_path)

    def verify(policy: pb.Policy) -> Version:
        if policy.version == 0:
            world.announce(1, None)
            raise error
        return Version(policy.version, tmp_path)

    world.verify = verify
    world.announce(0)
    await world.run()
    assert (evaluated(world), world.outcomes()) == ([1], {"not_fetched": 1, "reported": 1})


async def test_a_version_that_could_not_be_fetched_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_FETCH_PAUSE_S", 0.0)
    world, attempts = World(tmp_path), []

    def verify(policy: pb.Policy) -> Version:
        attempts.append(policy.version)
        if len(attempts) == 1:
            raise FetchError("policy.uri", "not there yet")
        return Version(policy.version, tmp_path)

    world.verify = verify
    world.announce(0, None)
    await world.run()
    assert (attempts, evaluated(world), world.outcomes()) == ([0, 0], [0], {"reported": 1})


async def test_an_engine_that_does_not_answer_ends_one_evaluation_and_not_the_next(tmp_path: Path):
    world = World(tmp_path)

    def fail(version: int) -> int:
        if version == 0:
            world.announce(3, None)
            raise EngineError("it failed three times")
        return version

    world.made_by = fail
    world.announce(0)
    await world.run()
    assert (evaluated(world), world.outcomes()) == ([3], {"failed": 1, "reported": 1})


async def test_a_gateway_that_is_away_holds_no_evaluation_up(tmp_path: Path):
    world = World(tmp_path)
    world.gateway_is_up.clear()
    world.announce(0)

    async def then() -> None:
        await until(lambda: evaluated(world) == [0])
        world.announce(1)
        await until(lambda: evaluated(world) == [0, 1])
        assert world.reported == []
        world.gateway_is_up.set()
        world.announce(None)

    await asyncio.gather(world.run(), then())
    assert world.reported == [(0, "greedy"), (1, "greedy")]


async def test_a_process_that_comes_later_evaluates_only_what_is_missing_and_reports_again(tmp_path: Path):
    world = World(tmp_path)
    world.announce(0, None)
    await world.run()
    later = World(tmp_path, sampling=(EvaluationSampling(), EvaluationSampling(temperature=1.0)))
    later.announce(0, None)
    await later.run()
    found = [(one.version, one.sampling) for one in ResultFile(later.config.results).results]
    assert found == [(0, "greedy"), (0, "sampled")]
    assert later.reported == found  # the first may not have arrived the last time


async def test_a_version_that_was_chosen_is_evaluated_by_the_next_process(tmp_path: Path):
    world = World(tmp_path, every=0, at_end=True)
    world.announce(0)
    running = asyncio.create_task(world.run())
    await until(lambda: world.kept == [0])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    later = World(tmp_path, every=0, at_end=True)
    later.announce(9, None)  # newer by now
    await later.run()
    assert evaluated(later) == [0, 9]
    assert later.kept[0] == 0


async def test_what_is_left_at_the_end_has_a_limit(tmp_path: Path):
    world = World(tmp_path, final_timeout_s=0.05)
    world.loads = False
    world.announce(0, None)
    await world.run()
    assert (evaluated(world), world.outcomes()) == ([], {"timeout": 1})
