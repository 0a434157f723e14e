"""Recorded metrics, read while their files grow."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.run_history import LearnerHistory, LineReader, RunHistory, WorkerHistory, mean, read_samples
from runtime.rollout_record import RecordedTurn
from tests.tools.recorded import group, response, write_records
from tests.tools.runs import make_run, progress, recorded_sample, sample, step, write_rows


def test_a_half_written_line_waits_for_its_end(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    reader = LineReader(path)
    assert reader.read() == []
    path.write_text('{"a": 1}\n{"a"')
    assert reader.read() == [{"a": 1}]
    assert reader.read() == []
    with path.open("a") as file:
        file.write(": 2}\n")
    assert reader.read() == [{"a": 2}]
    assert reader.damaged == 0


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path):
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\nnot json\n[1]\n\xff\xfe\n{"a": 2}\n')
    reader = LineReader(tmp_path / "m.jsonl")
    assert reader.read() == [{"a": 1}, {"a": 2}]
    assert reader.damaged == 3


def test_a_resume_takes_back_the_steps_of_the_lost_timeline():
    learner = LearnerHistory()
    for row in [step(1), step(2), step(3), step(4)]:
        learner.add(row)
    learner.add({"kind": "start", "time": 0.0, "epoch": 2, "resumed_step": 2, "recommitted": 0})
    assert list(learner.steps) == [1, 2]
    learner.add(step(3, reward=0.9))
    assert [row["reward"] for row in learner.last(2)] == [0.5, 0.9]
    learner.add(step(3, reward=0.1))  # the same step again, without a start between
    assert [row["reward"] for row in learner.last(9)] == [0.5, 0.5, 0.1]


def test_a_restarted_worker_counts_on():
    worker = WorkerHistory()
    for tokens in (10, 30, 30, 5, 8):  # restarted after 30
        worker.add(progress(0.0, tokens))
    assert worker.total("tokens_generated") == 38
    assert WorkerHistory().total("tokens_generated") == 0


def test_the_rate_is_of_the_last_seconds_and_survives_a_restart():
    worker = WorkerHistory()
    for time, tokens in ((0.0, 0), (10.0, 1000), (15.0, 1100), (20.0, 100)):  # restarted before the last
        worker.add(progress(time, tokens))
    assert worker.rate(10.0) == (100 + 100) / 10
    assert WorkerHistory().rate(10.0) == 0.0


def test_a_run_is_its_learner_and_its_workers(tmp_path: Path):
    run = make_run(tmp_path / "run").directory
    write_rows(
        run.metrics / "worker-1.jsonl",
        [progress(1.0, 4), {"kind": "engine", "engine": 0, "state": "serving"}],
    )
    write_rows(run.metrics / "trained.jsonl", [{"step": 1, "epoch": 1, "groups": []}])
    history = RunHistory(run.metrics).poll()
    assert list(history.learner.steps) == [1, 2, 3]
    assert set(history.workers) == {"worker-0", "worker-1"}
    assert history.workers["worker-1"].engines == {0: "serving"}
    assert history.tokens_generated() == 36 + 4
    assert history.generation_rate() == 12.0  # 24 tokens in 2 s; the other worker has reported once
    newest = max(row["time"] for worker in history.workers.values() for row in worker.progress)
    assert history.generation_rate(since=newest) == 12.0
    assert history.generation_rate(since=newest + 1) == 0.0  # who has said nothing since then makes nothing now
    write_rows(run.metrics / "learner.jsonl", [step(4)])
    assert list(history.poll().learner.steps) == [1, 2, 3, 4]


def test_mean_is_of_the_rows_that_know():
    assert mean([{"a": 1.0}, {"a": None}, {}, {"a": 2.0}], "a") == 1.5
    assert mean([], "a") is None


def test_samples_of_all_workers_in_order(tmp_path: Path):
    rows = [sample(1.0, 0, "a"), sample(2.0, 1, "b"), sample(3.0, 2, "c")]
    write_records(tmp_path, [recorded_sample(rows[1])], "worker-1")
    write_records(tmp_path, map(recorded_sample, rows[::2]), "worker-0")
    assert read_samples(tmp_path) == rows


def test_a_sample_is_a_scored_response_where_there_is_one_and_an_episode_is_shown_turn_by_turn(tmp_path: Path):
    turns = (RecordedTurn(role="tool", text="7"), RecordedTurn(role="assistant", text="It is 7."))
    scored = group(1.0, [response("x", None), response("", 0.5, 3, turns=turns)])
    write_records(tmp_path, [scored, group(2.0, [response("y", None)])])
    first, second = read_samples(tmp_path)
    assert (first["response"], first["reward"], first["version"]) == ("tool: 7\nassistant: It is 7.", 0.5, 3)
    assert (second["response"], second["reward"]) == ("y", None)


def test_only_the_newest_rows_are_kept_for_a_display(tmp_path: Path):
    run = make_run(tmp_path / "run", steps=40).directory
    write_rows(run.metrics / "learner.jsonl", [{"kind": "skipped", "time": 0.0, "step": 3}] * 30)
    write_rows(run.metrics / "worker-0.jsonl", [progress(2000.0 + n, n) for n in range(50)])
    history = RunHistory(run.metrics, recent=10).poll()
    assert list(history.learner.steps) == list(range(31, 41))
    assert [row["version"] for row in history.learner.versions] == list(range(31, 41))
    assert history.learner.skipped == 30  # a count, of all
    assert [row["time"] for row in history.workers["worker-0"].progress] == [2040.0 + n for n in range(10)]
    assert len(RunHistory(run.metrics).poll().learner.steps) == 40


def test_a_workers_file_that_was_begun_anew_goes_on_from_the_one_before(tmp_path: Path):
    path = tmp_path / "worker-0.jsonl"
    row = '{"time": %d, "kind": "progress", "tokens_generated": %d}\n'
    path.write_text(row % (1, 10) + row % (2, 20))
    run = RunHistory(tmp_path).poll()
    path.replace(tmp_path / "worker-0.jsonl.1")
    path.write_text(row % (3, 30))
    assert run.poll().tokens_generated() == 30  # by who watched it
    assert RunHistory(tmp_path).poll().tokens_generated() == 30  # by who comes later
    assert [one["time"] for one in RunHistory(tmp_path).poll().workers["worker-0"].progress] == [1, 2, 3]
