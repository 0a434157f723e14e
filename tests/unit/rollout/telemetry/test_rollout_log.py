"""The worker's files of recorded groups: when, how many, how large; restarts, torn lines and failing disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from rollout.config import WorkerConfig
from rollout.config.record import RecordConfig
from rollout.engine.response import VersionSpan
from rollout.episodes.record import SegmentRecord
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score
from rollout.telemetry.record_metrics import RecordMetrics
from rollout.telemetry.rollout_log import RolloutLog
from runtime.metric_registry import MetricRegistry
from runtime.rollout_files import all_records, rollout_files
from runtime.settings import SettingsError


def made(number: int, text: str = "1") -> MadeGroup:
    segment = SegmentRecord([1], [2], [VersionSpan(0, 0, 1)], "first")
    outcomes = [ResponseOutcome([segment], "stop", Score(1.0), text=text)] * 2
    return MadeGroup(AskedPrompt(0, number, Prompt(str(number), "1=")), [1], outcomes, Withdrawal("other", ""))


class Recording:
    """A log with a clock of its own."""

    def __init__(self, directory: Path, **values: Any) -> None:
        self.now = 100.0
        self.registry = MetricRegistry()
        places = {
            "gateway": "g:1", "model": directory, "state_dir": directory, "log_dir": directory, "name": "w-0",
            "allowed_uris": ["file:///w"], "record": {"dir": directory, **values},
        }  # fmt: skip
        self.directory = directory
        config = WorkerConfig.parse(places, "test")
        self.log = RolloutLog(config, RecordMetrics(self.registry), lambda: self.now)

    def keep(self, *numbers: int, text: str = "1") -> None:
        for number in numbers:
            self.log.keep(made(number, text))

    def prompts(self) -> list[int]:
        return [int(one.prompt_id) for one in all_records(self.directory)]

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.prometheus.get_sample_value(f"leeway_worker_{name}_total", labels) or 0.0


def test_the_first_groups_are_kept_and_then_one_every_now_and_then(tmp_path: Path):
    recording = Recording(tmp_path / "rollouts", every_s=2.0)
    recording.keep(*range(10))
    assert recording.prompts() == list(range(8))
    recording.now += 1.9
    recording.keep(10)
    recording.now += 0.2
    recording.keep(11, 12)
    assert recording.prompts() == [*range(8), 11]
    assert recording.counted("recorded_groups", outcome="written") == 9


def test_every_group_is_kept_where_that_is_wanted_and_none_where_that_is(tmp_path: Path):
    recording = Recording(tmp_path / "all", every_s=0)
    recording.keep(*range(20))
    assert recording.prompts() == list(range(20))
    Recording(tmp_path / "none", enabled=False).keep(1)
    assert not (tmp_path / "none").exists()


def test_files_are_limited_and_the_first_one_stays_for_ever(tmp_path: Path):
    recording = Recording(tmp_path, every_s=0, file_bytes=1 << 16, group_bytes=1 << 14, files=3)
    recording.keep(*range(100), text="x" * 5000)
    files = rollout_files(tmp_path)
    assert len(files) == 3
    assert [file.number for file in files] == [0, files[-1].number - 1, files[-1].number]
    assert files[-1].number > 4
    assert all(file.path.stat().st_size <= 1 << 16 for file in files)
    prompts = recording.prompts()
    assert prompts[:4] == [0, 1, 2, 3]
    assert prompts[-1] == 99
    assert prompts[-10:] == list(range(90, 100))


def test_a_restarted_worker_goes_on_in_its_newest_file_after_a_torn_line(tmp_path: Path):
    recording = Recording(tmp_path, every_s=0)
    recording.keep(0, 1)
    recording.log.close()
    (file,) = rollout_files(tmp_path)
    file.path.write_bytes(file.path.read_bytes()[:-20])
    Recording(tmp_path, every_s=0).keep(2, 3)
    assert recording.prompts() == [0, 2, 3]
    assert len(rollout_files(tmp_path)) == 1


def test_a_disk_that_fails_is_said_once_and_counted_and_tried_again(tmp_path: Path):
    place = tmp_path / "rollouts"
    place.write_text("a file where the directory has to be")
    recording = Recording(place, every_s=0)
    with capture_logs() as logs:
        recording.keep(0, 1, 2)
    assert [row["log_level"] for row in logs] == ["error"]
    assert "File exists" in logs[0]["error"]
    assert recording.counted("recorded_groups", outcome="failed") == 3
    place.unlink()
    recording.keep(3)
    assert recording.prompts() == [3]


def test_what_was_half_written_to_a_full_disk_spoils_no_other_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rollout.telemetry import rollout_log

    recording = Recording(tmp_path, every_s=0)
    recording.keep(0)
    real = rollout_log.os.write
    with monkeypatch.context() as patch:
        patch.setattr(rollout_log.os, "write", lambda file, data: real(file, data[:30]))
        recording.keep(1)
    recording.keep(2)
    assert recording.prompts() == [0, 2]
    assert recording.counted("recorded_groups", outcome="failed") == 1


def test_masked_secrets_and_groups_that_are_too_large_are_counted(tmp_path: Path):
    recording = Recording(tmp_path, every_s=0, mask=[r"canary-\d+"])
    recording.keep(0, text="canary-1 canary-2")
    assert recording.counted("masked_secrets") == 4
    assert b"canary" not in rollout_files(tmp_path)[0].path.read_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": ["("]}, r"mask.*'\(' is no regular expression"),
        ({"mask": ["x*"]}, r"'x\*' matches the empty text"),
        ({"file_bytes": 1 << 16, "group_bytes": 1 << 17}, "group_bytes = 131072 is more than file_bytes = 65536"),
        ({"files": 1}, "files = 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message):
        RecordConfig.parse(values, "test")


def test_files_are_beside_the_metrics_or_else_beside_the_state(tmp_path: Path):
    places: dict[str, Any] = {
        "gateway": "g:1", "model": tmp_path, "state_dir": "/run/state", "log_dir": "/l", "allowed_uris": ["file:///w"],
    }  # fmt: skip
    for more, expected in (
        ({}, "/run/rollouts"),
        ({"metrics_dir": "/other/metrics"}, "/other/rollouts"),
        ({"metrics_dir": "/other/metrics", "record": {"dir": "/here"}}, "/here"),
    ):
        assert WorkerConfig.parse({**places, **more}, "test").record_dir == Path(expected)
