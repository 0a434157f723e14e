"""What `leeway eval` hands to the evaluator, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from learner.cli.operate import evaluate as command
from learner.cli.operate.evaluate import EvaluationWish, evaluate, evaluator_config
from learner.cli.run.evaluations import Estimate, Evaluation
from learner.cli.run.run_directory import RunDirectory, RunError
from tests.tools.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of the demo with the versions 0 and 7."""
    directory = make_run(tmp_path / "run").directory
    for version in (0, 7):
        (directory.weights / f"weight_v{version:06d}").mkdir(parents=True)
    return directory


def test_a_run_is_measured_as_it_measures_itself(run: RunDirectory, tmp_path: Path):
    config = evaluator_config(EvaluationWish(run.root), tmp_path)
    assert (config.version, config.model, config.gateway) == (7, run.model, "")
    assert [(task.label, task.held_out) for task in config.task] == [("sort", 0.1)]
    assert [(one.name, one.samples) for one in config.sampling] == [("greedy", 1), ("sampled", 4)]
    assert (config.max_new_tokens, config.prompts) == (7, 256)
    for path in (config.results, config.state_dir, config.log_dir, config.cache_dir):
        assert str(path).startswith(str(tmp_path))  # nothing of the run is written


def test_what_is_asked_for_takes_the_place_of_the_runs_own(run: RunDirectory, tmp_path: Path):
    wish = EvaluationWish(run.root, 0, ["add"], 3, ["prompts=9", "task.options.most=5"])
    config = evaluator_config(wish, tmp_path)
    assert config.task[0].options == {"most": 5}
    assert (config.version, config.prompts) == (0, 9)
    assert [task.name for task in config.task] == ["add"]
    assert [(one.samples, one.temperature) for one in config.sampling] == [(3, 1.0)]


def test_any_model_is_measured_on_a_task_that_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    config = evaluator_config(EvaluationWish(tmp_path, tasks=["sort"], samples=1), tmp_path)
    assert (config.version, config.model) == (None, tmp_path)
    assert [(one.samples, one.temperature) for one in config.sampling] == [(1, 0.0)]


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"version": 3}, "version 3: not on disk; there: 0, 7"),
        ({"source": Path("/nowhere")}, "neither a run's directory"),
    ],
)
def test_what_cannot_be_measured(run: RunDirectory, tmp_path: Path, wish: dict, problem: str):
    with pytest.raises(RunError, match=problem):
        evaluator_config(EvaluationWish(**{"source": run.root, **wish}), tmp_path)


def test_a_model_needs_a_task_and_has_no_versions(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="say what to ask it"):
        evaluator_config(EvaluationWish(tmp_path), tmp_path)
    with pytest.raises(RunError, match="which has no versions"):
        evaluator_config(EvaluationWish(tmp_path, 3, ["sort"]), tmp_path)


def test_a_failed_evaluation_ends_with_its_own_words(run: RunDirectory):
    with pytest.raises(
        RunError, match=r"the evaluation failed \(exit status 2\): .*tokenizer"
    ):  # the run has no model yet
        evaluate(EvaluationWish(run.root), Console(quiet=True))


def test_the_table_has_a_column_for_each_sampling(capsys: pytest.CaptureFixture[str]):
    greedy = Evaluation(0.0, 7, "sort", "greedy", 64, 1, 2, {"mean@1": Estimate(0.5, 0.25, 0.75)}, 1.0)
    sampled = Evaluation(0.0, 7, "sort", "sampled", 64, 4, 0, {"mean@4": Estimate(0.25, 0.2, 0.3)}, 1.0)
    Console(width=100).print(command.result_table([greedy, sampled]))
    output = capsys.readouterr().out
    for words in ("sort greedy (64 x 1)", "sort sampled (64 x 4)", "0.5 [0.25, 0.75]", "0.25 [0.2, 0.3]", "unscored"):
        assert words in output
