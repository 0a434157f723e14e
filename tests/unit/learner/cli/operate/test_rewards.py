"""`leeway rewards` prints what `python -m rollout rewards` prints, and says why it cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.operate import rewards


def test_the_command_lists_the_registry():
    done = subprocess.run(
        [sys.executable, "-m", "rollout", "rewards"], capture_output=True, text=True, timeout=120, check=True
    )
    shown = CliRunner().invoke(app, ["rewards"])
    assert shown.exit_code == 0
    assert shown.output == done.stdout
    assert "\nllm_judge  (" in done.stdout


def test_a_list_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rewards.sys, "executable", "/bin/false")
    with pytest.raises(rewards.RewardsListError, match="ended with 1"):
        rewards.listed_rewards()
    shown = CliRunner().invoke(app, ["rewards"])
    assert shown.exit_code == 2
    assert "python -m rollout rewards ended with 1" in shown.output
    monkeypatch.setattr(rewards.sys, "executable", "/bin/cat")
    monkeypatch.setattr(rewards, "_LIMIT_S", 0.0)
    with pytest.raises(rewards.RewardsListError, match="no list within 0 s"):
        rewards.listed_rewards()
