"""Opens what plays the episodes of one task: their book, and the endpoint at which agents and environments reach it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from rollout.config import TaskConfig, WorkerConfig
from rollout.data.tokenizer import Tokenizer
from rollout.endpoint.observer import EndpointObserver
from rollout.endpoint.served_policy import ServedPolicy
from rollout.endpoint.server import Endpoint
from rollout.engine.parsing import EngineParsers
from rollout.engine.pool import EnginePool
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.book import EpisodeBook
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.offers import EpisodeOffers
from rollout.generation.episode_player import EpisodeDoor, EpisodePlayer
from rollout.generation.generator import sampling_of
from rollout.telemetry.episode_metrics import EpisodeMetrics

_MODEL = "policy"  # the model's name at the endpoint where the run has none


class PlayObservers(Protocol):
    """Who counts what happens in episodes and at the endpoint."""

    @property
    def episodes(self) -> EpisodeMetrics:
        """Counts episodes."""
        ...

    @property
    def endpoint(self) -> EndpointObserver:
        """Counts calls."""
        ...


@contextlib.asynccontextmanager
async def opened_player(
    config: WorkerConfig,
    task: TaskConfig,
    environments: EnvironmentPool,
    pool: EnginePool,
    tokenizer: Tokenizer,
    observers: PlayObservers,
) -> AsyncIterator[EpisodePlayer]:
    """Opens the book of a task's episodes and serves it at an endpoint until the block ends.

    Args:
        config: of it, ``sampling``, ``endpoint``, ``run``, and for the endpoint's socket ``endpoint_dir`` and ``name``.
        task: settings of the task; ``limits`` are those of its episodes.
        environments: the task's.
        pool: generates.
        tokenizer: the model's.
        observers: count.

    Raises:
        SettingsError: the endpoint cannot be opened.
        TokenizerError: a stop of the task is not one token, or the model has no chat template and needs one.
    """
    parsers = config.endpoint.tool_parser, config.endpoint.reasoning_parser
    chat_format = ChatFormat(tokenizer, *parsers, EngineParsers(pool.ask), task.template)
    sampling = sampling_of(config, tokenizer, environments.task.stop)
    book = EpisodeBook(pool.generate_one, tokenizer, chat_format, sampling, task.limits, observers.episodes)
    served = ServedPolicy(
        book=book,
        offers=EpisodeOffers(),
        model=config.run or _MODEL,
        encode=tokenizer.prompt_ids if task.prompt_format == "raw" else tokenizer.rendered_ids,
        count=chat_format.count,
        sampling=config.sampling,
        limits=task.limits,
        observer=observers.endpoint,
    )
    async with Endpoint.open(config.endpoint, served, config.endpoint_dir / f"{config.name}.socket") as endpoint:
        door = EpisodeDoor(endpoint.url, endpoint.socket, served.model, served.offers)
        yield EpisodePlayer(task, environments, book, door, tokenizer, observers.episodes)
