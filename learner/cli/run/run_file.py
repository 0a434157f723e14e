"""The run file: one TOML file for a whole run on this machine, from which each process's own settings are derived.

Sections are the processes' own settings without what `leeway up` fills in (paths, addresses, tokens, vocabulary size),
so every key is described and validated once. What several processes must agree on is in one place:
``learner.groups_per_step``, ``learner.max_staleness`` and ``rollout.sampling.responses`` (the group size).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from learner.cli.run.model_routing import require_records, require_room, routing_of
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.sections import (
    EMBEDDED,
    EvalSection,
    GatewaySection,
    LearnerSection,
    ModelSection,
    QueueSection,
    RolloutSection,
    RunSection,
)
from learner.config import GatewayConfig, LearnerConfig, QueueConfig
from learner.config.behaviour import takes_truncated_sampling
from learner.config.lateness import check_expire_after
from learner.config.learner import check_hold_staleness
from learner.config.presets import PRESETS
from rollout.config import EVALUATION_PORT, EngineConfig, EvaluatorConfig, TaskConfig, WorkerConfig
from runtime.endpoint_config import (
    EVALUATOR_OFFSET,
    GATEWAY_OFFSET,
    LEARNER_OFFSET,
    WORKER_OFFSET,
    StatusConfig,
    TraceConfig,
)
from runtime.routing_record import RoutingShape
from runtime.settings import Settings, SettingsError, read_mapping

DEMO_MODELS = ("demo", "demo-tools")  # made by `leeway up`; the second one knows conversations and tools
_FLEET = "local"
_EVALUATOR = "evaluator"


@dataclass(frozen=True)
class Plan:
    """The settings of every process of a run, each written to a file of its own.

    Attributes:
        gateway: those of the gateway.
        learner: those of every rank of the learner.
        workers: those of this machine's workers; empty where fleets elsewhere do all the work.
        demonstrator: those of the job that makes the demonstrations of a warm start; None without one.
        evaluator: those of the process that evaluates versions; None: nothing is evaluated.
    """

    gateway: GatewayConfig
    learner: LearnerConfig
    workers: list[WorkerConfig]
    demonstrator: WorkerConfig | None = None
    evaluator: EvaluatorConfig | None = None


class RunFile(Settings):
    """A run file: what `leeway up` reads, and what run.json contains."""

    run: RunSection
    model: ModelSection
    queue: QueueSection = QueueSection()
    gateway: GatewaySection = GatewaySection()
    learner: LearnerSection
    rollout: RolloutSection = RolloutSection()
    eval: EvalSection | None = None
    traces: TraceConfig = TraceConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> RunFile:
        learner, layout = self.learner, self.learner.parallel
        if learner.world_size % layout.ranks:
            raise ValueError(
                f"learner.processes = {learner.world_size} is not a multiple of {layout.ranks}, as learner.parallel needs: "
                f"pipeline * lcm(tensor * context, expert) = {layout.pipeline} * "
                f"lcm({layout.tensor} * {layout.context}, {layout.expert})"
            )
        check_hold_staleness(learner.hold_staleness, learner.max_staleness, "learner.")
        check_expire_after(learner.expire_after, learner.max_staleness, learner.late, "learner.")
        if (self.gateway.tls is None) != (self.rollout.tls is None):
            given, missing = ("gateway", "rollout") if self.rollout.tls is None else ("rollout", "gateway")
            raise ValueError(
                f"{given}.tls is set and {missing}.tls is not: this machine's workers connect to this gateway; set both or "
                "none of them"
            )
        if self.gateway.tls is not None and self.gateway.tls.client_ca is not None and not self._worker_certificate():
            raise ValueError("gateway.tls.client_ca is set: set rollout.tls.certificate and rollout.tls.key too")
        if self.rollout.sampling.responses < 2:
            raise ValueError(
                f"rollout.sampling.responses = {self.rollout.sampling.responses}: an advantage compares the responses "
                "of a group; set it to 2 or more"
            )
        if self.rollout.sampling.max_new_tokens > self.gateway.limits.max_response_tokens:
            raise ValueError(
                f"rollout.sampling.max_new_tokens = {self.rollout.sampling.max_new_tokens} is above "
                f"gateway.limits.max_response_tokens = {self.gateway.limits.max_response_tokens}: the gateway would reject "
                "longer responses; raise the limit, or lower max_new_tokens"
            )
        return self

    @model_validator(mode="after")
    def _sampling_is_taken(self) -> RunFile:
        sampling, learner = self.rollout.sampling, self.learner
        cut = [name for name in ("top_p", "top_k", "min_p") if _truncates(name, getattr(sampling, name))]
        if cut and not takes_truncated_sampling(learner.objective, learner.behaviour):
            why = (
                f"learner.objective.name = {learner.objective.name!r}"
                if learner.objective.recomputes
                else f"learner.behaviour.drift_every = {learner.behaviour.drift_every}"
            )
            raise ValueError(
                f"rollout.sampling.{cut[0]} = {getattr(sampling, cut[0])}: with {why} the learner recomputes the full "
                "softmax, under which the tokens have other probabilities, and the gateway rejects them; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _evaluates_other_prompts(self) -> RunFile:
        if self.eval is None:
            return self
        trained = list(self.rollout.task)
        if not self.eval.task and not any(task.held_out for task in trained):
            raise ValueError(
                "[eval] names no task, and no task of [rollout] has held-out prompts: set rollout.task.held_out, such as "
                "0.05, or name what is evaluated in [[eval.task]], such as a test split"
            )
        for task in self.eval.task:
            for other in trained:
                same = (task.name, task.options, task.prompts) == (other.name, other.options, other.prompts)
                if same and not 0 < task.held_out <= other.held_out:
                    raise ValueError(
                        f"eval.task {task.label!r} asks the prompts of rollout.task {other.label!r}, with held_out = "
                        f"{task.held_out} and {other.held_out}: it would evaluate prompts that are trained on; set the same "
                        "held_out above 0 for both, or name another split"
                    )
        engine = self.eval.engine
        if engine is None and self.rollout.engine.urls:
            raise ValueError(
                "[eval] needs an engine of its own, and those of rollout.engine.urls belong to the workers: set "
                "eval.engine, with urls of another server, or count = 1 to start one here"
            )
        if engine is not None and (shared := set(engine.urls) & set(self.rollout.engine.urls)):
            raise ValueError(
                f"eval.engine.urls: {min(shared)} is one of rollout.engine.urls too: weights of an evaluated version would "
                "be loaded into it; name another server"
            )
        return self

    def _worker_certificate(self) -> bool:
        return self.rollout.tls is not None and self.rollout.tls.certificate is not None

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = ()) -> RunFile:
        """Reads a TOML file, or the run.json of a run directory, and applies changes to it.

        Args:
            path: the file or the directory.
            overrides: changes of single settings, as ``section.key=value``.

        Raises:
            SettingsError: the file is missing or malformed, or a setting is not allowed.
        """
        if not path.is_dir():
            return cls.load(path, overrides)
        overrides = list(overrides)
        _refuse_another_preset(path / "run.json", overrides)
        return cls.load(path / "run.json", [*overrides, f"run.dir={json.dumps(str(path.absolute()))}"])

    @property
    def directory(self) -> RunDirectory:
        """The run's directory: run.dir, or runs/<run.name>."""
        return RunDirectory.at(self.run.dir or Path("runs") / self.run.name)

    @property
    def makes_model(self) -> bool:
        """Whether `leeway up` makes the initial policy, the demo's tiny model."""
        return bool(self.demo_model)

    @property
    def demo_model(self) -> str:
        """Name of the tiny model that `leeway up` makes; empty if the model is there."""
        return self.model.path if self.model.path in DEMO_MODELS else ""

    def model_directory(self) -> Path:
        """Absolute path of the initial policy."""
        return self.directory.model if self.makes_model else Path(self.model.path).expanduser().absolute()

    def absolute(self) -> RunFile:
        """This run file with absolute paths, as run.json contains it."""
        run = self.run.model_copy(update={"dir": self.directory.root})
        model = self.model.model_copy(update={"path": self.demo_model or str(self.model_directory())})
        sections = {name: _absolute_files(getattr(self, name)) for name in ("queue", "gateway", "rollout")}
        return self.model_copy(update={"run": run, "model": model, **sections})

    def queue_config(self, redis_url: str, identity: str) -> QueueConfig:
        """The settings of the run's queue. Raises SettingsError.

        Args:
            redis_url: address of the Redis.
            identity: name of the run's keys there.
        """
        values = {"url": redis_url, "run": identity, **self.queue.model_dump(exclude={"url", "aof", "memory_bytes"})}
        return QueueConfig.parse(values, source="queue")

    def resolve(self, redis_url: str, identity: str, vocabulary: int) -> Plan:
        """Derives each process's settings.

        Args:
            redis_url: address of the Redis in which the queue is.
            identity: name of the run's keys there.
            vocabulary: number of token ids of the model.

        Raises:
            SettingsError: a process's own settings are not allowed.
        """
        queue = self.queue_config(redis_url, identity)
        return Plan(
            self._gateway(queue, vocabulary),
            self._learner(queue),
            [self._worker(index, identity) for index in range(self.rollout.workers)],
            self._worker(0, identity) if self.learner.warmup is not None else None,
            self._evaluator(identity),
        )

    def _gateway(self, queue: QueueConfig, vocabulary: int) -> GatewayConfig:
        section, size = self.gateway, self.rollout.sampling.responses
        admission = {
            **section.admission.model_dump(exclude_none=True),
            "groups_per_step": self.learner.groups_per_step,
            "max_staleness": self.learner.max_staleness,
            "expire_after": self.learner.expiry_bound,
            "weights": self.learner.weights,
        }
        if self.queue.url == EMBEDDED:
            # Beside the payloads, Redis keeps their ids and references, and pages that a rewrite of its file copies.
            admission.setdefault("max_queued_bytes", self.queue.redis_memory // 2)
        limits = {
            **section.limits.model_dump(),
            "vocab_size": vocabulary,
            "group_size": (size, size),
            "max_response_context_tokens": self.learner.micro_batch_tokens,
            "truncated_sampling": takes_truncated_sampling(self.learner.objective, self.learner.behaviour),
            "routing": self._routing(size),
        }
        wanted = section.wanted.model_dump()
        wanted["routed_experts"] |= self.learner.replay_routing
        values = {
            **section.model_dump(exclude={"admission", "limits", "wanted"}),
            "identities_file": self.directory.identities,
            "queue": queue,
            "admission": admission,
            "limits": limits,
            "wanted": wanted,
            "adapters": self._adapters(),
            "best": self.best_metric,
            "status": self._status(GATEWAY_OFFSET),
            "traces": self.traces,
        }
        return GatewayConfig.parse(values, source="gateway")

    def _adapters(self) -> dict[str, Any] | None:
        """What the run's versions are where they are adapters."""
        lora = self.learner.lora
        if lora is None or self.learner.publish.form != "adapter":
            return None
        return {"rank": lora.rank, "targets": lora.targets}

    def _routing(self, responses: int) -> RoutingShape | None:
        returns = self.rollout.engine.return_routed_experts
        directory = None if self.makes_model else self.model_directory()
        shape = routing_of(directory, self.learner.replay_routing, returns)
        require_records(self.learner.replay_routing, returns, self.rollout.workers)
        if shape is not None and returns:
            most = self.gateway.limits.max_message_bytes
            require_room(shape, responses, self.rollout.sampling.max_new_tokens, most)
        return shape

    def _learner(self, queue: QueueConfig) -> LearnerConfig:
        section, run = self.learner, self.directory
        warmup = section.warmup and {
            **section.warmup.model_dump(exclude={"count"}),
            "demonstrations": run.demonstrations,
        }
        objective = section.objective.model_dump()
        if section.objective.name == "dr_grpo" and section.objective.dr_grpo_length is None:
            objective["dr_grpo_length"] = self.rollout.sampling.max_new_tokens
        values = {
            **section.model_dump(exclude={"processes", "warmup", "checkpoint", "publish", "objective"}),
            "objective": objective,
            "model": self.model_directory(),
            "queue": queue,
            "seed": self.run.seed,
            "warmup": warmup,
            "checkpoint": {**section.checkpoint.model_dump(), "dir": run.checkpoints},
            "publish": {**section.publish.model_dump(), "dir": run.weights, "best": self.best_metric},
            "metrics_dir": run.metrics,
            "status": self._status(LEARNER_OFFSET),
            "traces": self.traces,
        }
        return LearnerConfig.parse(values, source="learner")

    def _worker(self, index: int, identity: str) -> WorkerConfig:
        section, run = self.rollout, self.directory
        engine = section.engine.model_dump()
        engine["base_port"] += index * section.engine.count
        values = {
            **section.model_dump(exclude={"workers", "engine"}),
            "name": f"worker-{index}",  # the number decides which prompts it begins with
            "run": identity,
            "fleet": _FLEET,
            "gateway": self.gateway.listen,
            "token_file": run.secret(_FLEET),
            "model": self.model_directory(),
            "state_dir": run.state,
            "cache_dir": section.cache_dir or run.state / "versions",
            "allowed_uris": [run.weights.absolute().as_uri(), *(mirror.url for mirror in self.learner.publish.mirror)],
            "metrics_dir": run.metrics,
            "log_dir": run.logs,
            "seed": self.run.seed,
            "engine": engine,
            "max_message_bytes": self.gateway.limits.max_message_bytes,
            "status": self._status(WORKER_OFFSET + index),
            "traces": self.traces,
        }
        return WorkerConfig.parse(values, source="rollout")

    def _evaluator(self, identity: str) -> EvaluatorConfig | None:
        section, run, rollout = self.eval, self.directory, self.rollout
        if section is None:
            return None
        own = {"count": 1, "base_port": EVALUATION_PORT, "urls": [], "router": None, "return_routed_experts": False}
        engine = section.engine or EngineConfig(**{**rollout.engine.model_dump(), **own})
        endpoint = section.endpoint or rollout.endpoint.model_copy(
            update={"listen": "127.0.0.1:0", "url": "", "remote_token_file": None}
        )
        values = {
            **section.model_dump(exclude={"engine", "endpoint", "task"}),
            "task": self._evaluated_tasks(),
            "best": self.best_metric,
            "engine": engine,
            "endpoint": endpoint,
            "environments": rollout.environments,
            "name": _EVALUATOR,
            "run": identity,
            "gateway": self.gateway.listen,
            "token_file": run.secret(_EVALUATOR),
            "tls": rollout.tls,
            "model": self.model_directory(),
            "state_dir": run.state,
            "results": run.metrics / "evaluations.jsonl",
            "cache_dir": run.state / f"{_EVALUATOR}.versions",
            "allowed_uris": [run.weights.absolute().as_uri(), *(mirror.url for mirror in self.learner.publish.mirror)],
            "transfer_timeout_s": rollout.transfer_timeout_s,
            "log_dir": run.logs,
            "seed": self.run.seed,
            "max_new_tokens": rollout.sampling.max_new_tokens,
            "status": self._status(EVALUATOR_OFFSET),
        }
        return EvaluatorConfig.parse(values, source="eval")

    def _evaluated_tasks(self) -> tuple[TaskConfig, ...]:
        """What is evaluated: the tasks of [eval], or those of the workers that have held-out prompts."""
        if self.eval is None:
            return ()
        return self.eval.task or tuple(task for task in self.rollout.task if task.held_out)

    @property
    def best_metric(self) -> str | None:
        """The metric by which the best version is chosen; None where nothing is evaluated."""
        if self.eval is None:
            return None
        return self.eval.model_copy(update={"task": self._evaluated_tasks()}).best_metric()

    def _status(self, offset: int) -> StatusConfig:
        return StatusConfig(listen=f"127.0.0.1:{self.run.status_port + offset}" if self.run.status_port else None)

    @property
    def evaluator(self) -> str | None:
        """Name of the identity and process that evaluates versions; None where nothing is evaluated."""
        return None if self.eval is None else _EVALUATOR

    @property
    def fleet(self) -> str:
        """Name of the fleet to which this machine's workers belong."""
        return _FLEET


def _refuse_another_preset(written: Path, overrides: Iterable[str]) -> None:
    """Refuses a preset for a run that has begun: its file holds every value, so that a preset would change none.

    Raises:
        SettingsError: ``overrides`` choose another preset than that of the run's own file ``written``.
    """
    for override in overrides:
        key, _, text = override.partition("=")
        name = text.strip().strip("\"'")
        if key.strip() != "learner.objective.preset" or name not in PRESETS:
            continue
        if read_mapping(written).get("learner", {}).get("objective", {}).get("preset") != name:
            sets = " ".join(f"--set learner.{key}={value}" for key, value in PRESETS[name].flat().items())
            raise SettingsError(
                f"--set {override!r}: {written} holds every value of the run, and a preset only fills in what is not set; "
                f"set its values instead: --set learner.objective.preset=off {sets}"
            )


def _truncates(name: str, value: float | None) -> bool:
    """Whether a sampling parameter of this name and value makes any token impossible."""
    return value is not None and value != {"top_p": 1.0, "min_p": 0.0}.get(name)


def _absolute_files(section: Any) -> Any:
    """A section with absolute paths of its credentials, so that they are found from any directory."""
    changes: dict[str, Any] = {}
    if section.tls is not None:
        files = {name: value.absolute() for name, value in section.tls if isinstance(value, Path)}
        changes["tls"] = section.tls.model_copy(update=files)
    if getattr(section, "password_file", None) is not None:
        changes["password_file"] = section.password_file.absolute()
    return section.model_copy(update=changes)
