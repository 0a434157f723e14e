"""What `leeway up` refuses before it starts a process or makes the run's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.cli.up import prepare
from learner.cli.up.prepare import open_run
from runtime.settings import SettingsError
from tests.tools.runs import DEMO


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "learner.parallel.tensor=3",
            "learner.parallel.tensor = 3 does not divide the model's num_attention_heads = 4",
        ),
        ("learner.micro_batch_tokens=10", "learner.micro_batch_tokens = 10 is below the longest possible sequence"),
        ("rollout.task.name=no_such_module:Task", "No module named 'no_such_module'"),
        ("rollout.task.prompt_format=chat", "has no chat template"),
        ("rollout.sampling.temperature=20", "rollout.sampling.temperature = 20 is outside"),
    ],
)
def test_a_run_that_cannot_train_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, message: str
):
    monkeypatch.setattr(prepare, "require_free", lambda address, key: None)  # other tests listen
    with pytest.raises(SettingsError, match=r"demo\.toml: ") as refused:
        open_run(DEMO, [f"run.dir={tmp_path / 'r'}", override], False, print)
    assert message in str(refused.value)
    assert not (tmp_path / "r").exists()


def test_what_is_only_odd_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "require_free", lambda address, key: None)
    said: list[str] = []
    task = "rollout.task.name=tests.tools.odd_tasks:Undecided"
    open_run(DEMO, [f"run.dir={tmp_path / 'r'}", task], False, said.append)
    assert said == [
        "warning: an empty response 0.5, a right answer 0.5; expected a higher reward for the right answer: check the task's "
        "reward and solution"
    ]
