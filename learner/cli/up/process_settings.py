"""Writes what the processes of a run need before they start: tokens, and the settings file of each."""

from __future__ import annotations

from learner.cli.run.config_files import config_file
from learner.cli.run.identities import issue_token
from learner.cli.run.own_gateway import OPERATOR
from learner.cli.run.run_file import Plan, RunFile
from learner.cli.up.model_check import vocabulary_size
from runtime.settings import Settings


def issue_tokens(run_file: RunFile) -> None:
    """Makes the run's own fleet, its operator and its evaluator known to the gateway, and draws the tokens that they lack."""
    run = run_file.directory
    issue_token(run, run_file.fleet)
    issue_token(run, OPERATOR, "operate")
    if run_file.evaluator is not None:
        issue_token(run, run_file.evaluator, "evaluate")


def write_settings(run_file: RunFile, redis_url: str) -> Plan:
    """Derives each process's settings and writes them to its file in the run's directory.

    Args:
        run_file: the run, whose directory and model exist.
        redis_url: address of the Redis in which the queue is.

    Raises:
        SettingsError: the model does not fit, or a process's own settings are not allowed.
    """
    run = run_file.directory
    vocabulary = vocabulary_size(run_file.model_directory(), run_file.learner.parallel, run_file.learner.lora)
    plan = run_file.resolve(redis_url, run.identity(run_file.run.name), vocabulary)
    settings: dict[str, Settings] = {
        "gateway": plan.gateway,
        "learner": plan.learner,
        **{worker.name: worker for worker in plan.workers},
    }
    if plan.demonstrator is not None:
        settings["demonstrations"] = plan.demonstrator
    if plan.evaluator is not None:
        settings[plan.evaluator.name] = plan.evaluator
    for name, values in settings.items():
        values.write(config_file(run, name))
    return plan
