"""The processes of a worker that run tasks, judges and agents; the worker's own event loop never runs a user's code."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog

from rollout.config import TaskConfig
from rollout.environments.access import EpisodeAccess
from rollout.environments.description import TaskDescription, describe_task
from rollout.environments.guard import import_path
from rollout.environments.host_process import HostDiedError, HostProcess, HostSettings, RequestError
from rollout.environments.judging import JointJudge, Judge, LocalJudge, is_quick, split_rewards
from rollout.environments.loading import TaskSpec, runs_user_code
from rollout.environments.memory_watch import memory_of_session
from rollout.environments.packing import pack, unpack_opaque
from rollout.environments.reward_pool import RewardPool
from rollout.environments.task_spec import spec_of
from rollout.rewards.registry import RewardPart
from rollout.rewards.rewarded_task import RewardedTask, episodes_judge_themselves
from rollout.tasks import ADAPTERS, Prompt, Task, TaskError, load_task
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError, describe, explain
from rollout.tasks.score import Score
from runtime.log_files import keep_small

_WATCH_S = 1.0
_LOG_BYTES = 8 << 20
_PROMPTS_S = 120.0  # limit of making the prompts of one request
_TRIES = 2  # of making prompts in a process that dies


class EnvironmentPool:
    """Asks, judges and plays. Open it with ``EnvironmentPool.open``.

    Quick built-in tasks judge in the worker's process. Everything else runs in hosts: ``config.processes`` of them judge and
    play, and one more makes the prompts of a task that is not built in. That one loads the task's data, once, and is not in
    danger from what judges and agents do.

    Attributes:
        task: what the task is.
    """

    def __init__(self, config: TaskConfig, spec: TaskSpec, local: Task | None, hosts: Sequence[HostProcess]) -> None:
        self.task = TaskDescription(spec.name) if local is None else describe_task(local)
        self._config = config
        self._limit_s = config.limits.seconds
        self._local = local
        self._asking = None if local is not None else hosts[0]
        self._working = list(hosts if local is not None else hosts[1:])
        self._playing: Counter[HostProcess] = Counter()
        self._judge: Judge | None = None if local is None else LocalJudge(local)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: TaskConfig, seed: int, log: Path, launcher: Path | None = None
    ) -> AsyncIterator[EnvironmentPool]:
        """Loads the task and opens its pool; kills its hosts when the block ends.

        Args:
            config: settings of the task.
            seed: the worker's.
            log: hosts write to files whose names begin with this path.
            launcher: unix socket of the launcher that starts the hosts in which code of a user's own runs; None: all hosts
                are child processes.

        Raises:
            TaskError: there is no such task, or its data cannot be used.
        """
        spec = spec_of(config, seed, log)
        built_in = not (":" in config.name or config.name in ADAPTERS or config.command or config.remote)
        local, judging = _local(spec) if built_in else (None, split_rewards(spec, False) or [spec])
        with import_path() if config.python else contextlib.nullcontext() as path:

            def made(one: TaskSpec, label: object, load: bool = False) -> HostProcess:
                settings = HostSettings(one, load, config.python, path)
                if launcher is not None and runs_user_code(one):
                    # The worker's directories are not there: what rewards keep lies beside the socket.
                    state = str(launcher.parent / log.name) if one.state else ""
                    limit = None if load else config.limits.memory_mb
                    settings = replace(
                        settings, spec=replace(one, state=state), launcher=launcher, memory_mb=limit, path=None
                    )
                return HostProcess(settings, log.with_name(f"{log.name}-{label}.log"))

            numbers = itertools.count()
            processes = 0 if config.remote else config.processes
            groups = [[made(one, next(numbers)) for _ in range(processes)] for one in judging]
            hosts = [host for group in groups for host in group]
            if local is None:
                hosts.insert(0, made(replace(spec, rewards=()), "prompts", load=True))
            pool = cls(config, spec, local, hosts)
            watch = asyncio.create_task(pool._watch(hosts))
            try:
                await pool._start([group for group in groups if group])
                yield pool
            finally:
                watch.cancel()
                for host in hosts:
                    await host.kill("the worker ends")

    async def prompts(self, indices: Sequence[int]) -> list[Prompt]:
        """Makes prompts, in the order of ``indices``.

        Raises:
            TaskError: the task did not make one; no worker can go on without prompts.
        """
        if self._local is not None:
            return [self._prompt(self._local, index) for index in indices]
        assert self._asking is not None
        asked = {"do": "prompts", "indices": list(indices), "public": self._config.remote}
        try:
            answer = await self._ask(asked)
        except RequestError as error:
            raise self._without_prompt(str(error)) from error
        except TimeoutError as error:
            raise self._without_prompt(f"no prompts within {_PROMPTS_S:g} s") from error
        except HostDiedError as error:
            raise self._without_prompt(str(error)) from error
        return [unpack_opaque(packed) for packed in answer["prompts"]]

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse | str]) -> list[Score | RewardError]:
        """Judges responses to a prompt; each has its own outcome.

        Args:
            prompt: what was asked.
            responses: the responses, their end tokens removed; a text alone is one of which nothing else is known.
        """
        assert self._judge is not None, "episodes are judged by who plays them"
        judged = [JudgedResponse(one) if isinstance(one, str) else one for one in responses]
        return await self._judge.score(prompt, judged)

    async def rollout(self, prompt: Prompt, access: EpisodeAccess) -> Score:
        """Plays one episode in one of the hosts.

        Raises:
            RewardError: it has no reward. With the reason environment_died it may be played again, as another episode.
        """
        host = min(self._working, key=lambda one: self._playing[one])
        self._playing[host] += 1
        try:
            asked = {"do": "play", "prompt": pack(prompt), "access": asdict(access)}
            (score,) = (await host.request(asked, self._limit_s))["scores"]
            return Score(**score)
        except TimeoutError as error:
            message = f"the episode was not over within task.limits.seconds = {self._limit_s:g}"
            raise RewardError("limit_seconds", explain(self.task.name, message, prompt.prompt_id)) from error
        except RequestError as error:
            raise RewardError(
                "rollout_failed", explain(self.task.name, f"the episode failed: {error}", prompt.prompt_id)
            ) from error
        except HostDiedError as error:
            raise RewardError("environment_died", explain(self.task.name, str(error), prompt.prompt_id)) from error
        finally:
            self._playing[host] -= 1

    def pids(self) -> list[int]:
        """Process ids of the hosts that run; each leads a session of its own."""
        hosts = self._working if self._asking is None else [self._asking, *self._working]
        return [host.pid for host in hosts if host.pid is not None]

    async def _start(self, groups: Sequence[Sequence[HostProcess]]) -> None:
        """Starts the process that makes prompts, and one that judges of each group where rewards have to be checked."""
        limit_s = self._config.reward_timeout_s
        try:
            if self._asking is not None:
                self.task = self._asked = await self._asking.described()
            if self._config.reward and self.task.plays:
                raise TaskError(episodes_judge_themselves(self.task.name))
            if not self._config.reward:
                if groups and not self.task.plays:
                    self._judge = RewardPool(self.task, self._working, limit_s)
                return
            # A mistake in the rewards is found now, and not after the first responses.
            described = [await group[0].described() for group in groups]
        except HostDiedError as error:
            raise TaskError(f"task.name = {self._config.name!r}: {error}") from error
        self.task = replace(self.task, judges_groups=False)
        if groups:
            pools = [RewardPool(one, group, limit_s) for one, group in zip(described, groups, strict=True)]
            self._judge = pools[0] if len(pools) == 1 else JointJudge(pools)

    async def _ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Asks for prompts, once more when the process dies: of a new one, whose data must be what it was."""
        assert self._asking is not None
        for tries_left in reversed(range(_TRIES)):
            try:
                now = await self._asking.described()
                if now != self._asked:
                    raise TaskError(
                        f"task.name = {self._config.name!r}: its data has changed since the worker was started (it had "
                        f"{self.task.size} prompts and has {now.size}): start the worker again; see task.on_change"
                    )
                return await self._asking.request(asked, _PROMPTS_S)
            except HostDiedError as error:
                if not tries_left:
                    raise
                structlog.get_logger().error("the process that makes prompts is started again", error=str(error))
        raise AssertionError("unreachable")

    def _prompt(self, task: Task, index: int) -> Prompt:
        try:
            return task.prompt(index)
        except Exception as error:
            raise self._without_prompt(f"prompt({index}) raised {describe(task, error)}") from error

    def _without_prompt(self, why: str) -> TaskError:
        return TaskError(
            f"task.name = {self.task.name!r}: {why}; a task has a prompt for every index >= 0, and with finite data it sets "
            "size and begins again (see rollout/tasks/base.py)"
        )

    async def _watch(self, hosts: Sequence[HostProcess]) -> None:
        """Kills hosts that have taken too much memory, and keeps their logs small."""
        limit = self._config.limits.memory_mb
        told = False
        while True:
            await asyncio.sleep(_WATCH_S)
            for host in hosts:
                try:
                    keep_small(host.log, _LOG_BYTES)
                except OSError as error:  # such as a full disk: the limit on memory holds all the same
                    if not told:
                        structlog.get_logger().error("logs of environments are not kept small", error=str(error))
                    told = True
                if limit is None or host.pid is None or host is self._asking:
                    continue
                used = memory_of_session(host.pid) >> 20
                if used > limit:
                    why = f"its process was killed: it and what it started had {used} MiB, task.limits.memory_mb = {limit}"
                    structlog.get_logger().error("environment killed", process=host.pid, error=why)
                    await host.kill(why)


def _local(spec: TaskSpec) -> tuple[Task, list[TaskSpec]]:
    """Returns a built-in task as it is asked and perhaps judged here, and what hosts have to judge."""
    task = load_task(spec.name, spec.seed, spec.options)
    quick = not (task.slow or describe_task(task).plays)
    if not spec.rewards:
        return task, [] if quick else [spec]
    if not is_quick(spec, quick):
        return task, split_rewards(spec, quick)
    rewarded = RewardedTask(task, [RewardPart(**part) for part in spec.rewards], spec.limit_s)
    rewarded.size = task.size  # its data is loaded
    return rewarded, []
