"""The settings of one evaluator process, which measures what published versions are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rollout.config.endpoint import EndpointConfig
from rollout.config.engine import EngineConfig
from rollout.config.environments import EnvironmentsConfig
from rollout.config.sampling import SamplingConfig
from rollout.config.task import TaskConfig
from rollout.config.tls import ClientTlsConfig
from rollout.config.worker import WorkerConfig
from runtime.endpoint_config import StatusConfig
from runtime.settings import Settings

EVALUATION_PORT = 30_900  # of the evaluator's engine
_LABEL = r"^[A-Za-z0-9._@=+-]{0,64}$"


class _DrawnSampling(SamplingConfig):
    """Sampling parameters of a worker, which may be greedy."""

    temperature: float = Field(default=1.0, ge=0)


class EvaluationSampling(Settings):
    """One way to draw the responses of an evaluation."""

    label: str = Field(
        default="",
        pattern=_LABEL,
        description='its name in results; default: "greedy" at temperature 0, "sampled" otherwise. Each has its own',
    )
    samples: int = Field(default=1, gt=0, description="k, responses per prompt")
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="0: greedy")
    max_new_tokens: int | None = Field(default=None, gt=0, description="unset: as in training")
    top_p: float | None = Field(default=None, gt=0, le=1, description="as in rollout.sampling; unset: all tokens")
    top_k: int | None = Field(default=None, gt=0, description="as in rollout.sampling; unset: all tokens")
    min_p: float | None = Field(default=None, ge=0, lt=1, description="as in rollout.sampling; unset: all tokens")

    @property
    def name(self) -> str:
        """Its name in results."""
        return self.label or ("sampled" if self.temperature else "greedy")


class EvaluationConfig(Settings):
    """What is evaluated, when and how: `[eval]` in a run file, and a part of an evaluator's own settings."""

    task: Annotated[tuple[TaskConfig, ...], BeforeValidator(lambda tasks: _as_array(tasks))] = Field(
        default=(),
        description="[[eval.task]]: what is asked, such as the test split of a data set; a task with held_out > 0 asks its "
        "held-out prompts only, any other one all that it has. Default: the run's own tasks with held_out > 0",
    )
    every: int = Field(
        default=10,
        ge=0,
        description="versions between evaluations; where publication is faster, the newest is taken and those between are "
        "passed over; 0: only the first and the last version",
    )
    first: bool = Field(default=True, description="evaluate the version from which training begins")
    final: bool = Field(default=True, description="evaluate the last version of a finished run, before the run ends")
    at_end: bool = Field(
        default=False,
        description="with every = 0: evaluate the first version too when the run has finished, and keep it until then: "
        "training shares its cores with nobody",
    )
    prompts: int = Field(default=256, gt=0, description="prompts of each task: its first ones, the same every time")
    sampling: tuple[EvaluationSampling, ...] = Field(
        default=(EvaluationSampling(),), min_length=1, description="[[eval.sampling]]: each is measured by itself"
    )
    solved_at: float = Field(
        default=1.0,
        allow_inf_nan=False,
        description="reward from which a response counts as right in pass@k",
    )
    best: str = Field(
        default="",
        max_length=256,
        description="the metric by which the best version is chosen and kept, as name:sampling:metric, such as "
        "sort:greedy:mean@1; higher is better. Default: the mean reward of the first task with the first sampling",
    )
    final_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="limit of what is evaluated when the run has finished; then the run ends without",
    )
    timeout_s: float = Field(
        default=3600.0, gt=0, description="limit of one evaluation: one version, task and sampling; then it is given up"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.sampling]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two samplings are called {twice[0]!r}: give each a label of its own")
        names = [evaluation_name(task) for task in self.task]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two tasks to evaluate are called {twice[0]!r}: give each a label of its own")
        if self.at_end and self.every:
            raise ValueError(
                f"at_end = true with every = {self.every}: only the first and the last version are kept until the end; set "
                "every = 0, or at_end = false"
            )
        return self

    def best_metric(self) -> str:
        """The metric by which the best version is chosen, as name:sampling:metric."""
        sampling = self.sampling[0]
        return self.best or f"{evaluation_name(self.task[0])}:{sampling.name}:mean@{sampling.samples}"


class EvaluatorConfig(EvaluationConfig):
    """One evaluator process: `python -m rollout evaluate FILE`."""

    name: str = Field(
        default="evaluator", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="the process's name, in logs and metrics"
    )
    run: str = Field(default="", description="the run's name, for logs")
    gateway: str = Field(
        default="", description="host:port; several gateways of the run with commas between; empty: with --once"
    )
    token_file: Path | None = Field(
        default=None, description="file with a bearer token of an identity with the role evaluate"
    )
    tls: ClientTlsConfig | None = Field(default=None, description="unset: plain text, for this machine only")
    model: Path = Field(description="Hugging Face directory of the initial policy: architecture and tokenizer")
    version: int | None = Field(
        default=None,
        ge=0,
        description="with --once: the published version to evaluate, below the first of allowed_uris; unset: the model "
        "directory itself",
    )
    state_dir: Path = Field(description="the ids of the prompts that were asked, to notice a change")
    results: Path = Field(description="file to which results are appended, as JSON lines")
    cache_dir: Path | None = Field(
        default=None,
        description="versions copied from other machines or rebuilt from deltas; unset: NAME.versions in state_dir",
    )
    allowed_uris: list[str] = Field(default=[], description="where versions may be read, as in a worker's settings")
    locations: list[str] = Field(
        default=[],
        description="names of the places that versions are read from before all others, the most wanted first: mirrors of "
        "the run (learner.publish.mirror), local for the learner's disk; unset: in the order in which they are announced",
    )
    transfer_timeout_s: float = Field(default=1800.0, gt=0, description="limit of copying one file of a version")
    log_dir: Path = Field(description="where its processes write what they print, and its engines their logs")
    seed: int = Field(default=0, description="of the prompts and of the bootstrap")
    max_new_tokens: int = Field(
        default=1024, gt=0, description="longest response, where a sampling sets no other limit"
    )
    engine: EngineConfig = Field(
        default=EngineConfig(base_port=EVALUATION_PORT), description="the evaluator's own engine"
    )
    endpoint: EndpointConfig = Field(default=EndpointConfig(), description="where agents reach the evaluator")
    environments: EnvironmentsConfig = EnvironmentsConfig()
    status: StatusConfig = StatusConfig()

    @field_validator("task")
    @classmethod
    def _has_tasks(cls, tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        if not tasks:
            raise ValueError("nothing to evaluate: name a task")
        return tasks

    @field_validator("engine")
    @classmethod
    def _is_one(cls, engine: EngineConfig) -> EngineConfig:
        if engine.count > 1:
            raise ValueError("count: an evaluator has one engine; set it to 1")
        return engine

    def worker(self, task: TaskConfig, sampling: EvaluationSampling) -> WorkerConfig:
        """The settings with which responses are made: a worker's.

        Args:
            task: what is asked.
            sampling: how responses are drawn.
        """
        return WorkerConfig(
            name=self.name,
            run=self.run,
            gateway=self.gateway,
            model=self.model,
            state_dir=self.state_dir,
            allowed_uris=self.allowed_uris or [self.model.absolute().as_uri()],
            log_dir=self.log_dir,
            seed=self.seed,
            engine=self.engine,
            sampling=_DrawnSampling(
                responses=sampling.samples,
                temperature=sampling.temperature,
                max_new_tokens=sampling.max_new_tokens or self.max_new_tokens,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
            ),
            task=(task,),
            environments=self.environments,
            endpoint=self.endpoint,
        )


def evaluation_name(task: TaskConfig) -> str:
    """A task's name in results."""
    return task.label or task.name


def _as_array(tasks: Any) -> Any:
    """One table stands for an array of one."""
    return [tasks] if isinstance(tasks, dict) else tasks
