"""Metrics of rank 0: the rows of learner.jsonl, as Prometheus sees them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from learner.config import LearnerConfig
from learner.process.health import RankHealth
from learner.telemetry.metrics_writer import MetricsWriter
from learner.telemetry.rank_metrics import RankMetrics


@pytest.fixture
def config(tmp_path: Path) -> LearnerConfig:
    directories = {name: {"dir": str(tmp_path)} for name in ("checkpoint", "publish")}
    settings = {"model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 60, "metrics_dir": str(tmp_path)}
    return LearnerConfig.parse({**settings, **directories, "max_staleness": 3}, "test")


def shown(metrics: RankMetrics) -> dict[str, float]:
    families = text_string_to_metric_families(generate_latest(metrics.registry.prometheus).decode())
    samples = [sample for family in families for sample in family.samples]
    return {"/".join([one.name.removeprefix("leeway_learner_"), *one.labels.values()]): one.value for one in samples}


LENGTH = {"mean": 120.5, "p50": 110.0, "p95": 300.0, "max": 512}


def row(step: int) -> dict[str, object]:
    return {
        "step": step, "version": step, "epoch": 2, "reward": 0.5, "staleness_mean": 1.5, "staleness_max": 3, "rho": None,
        "nll_positive": 0.7, "nll_negative": None, "entropy": 1.1, "loss": 0.2, "grad_norm": 3.0, "update_norm": 0.01,
        "lr": 1e-3, "lr_scheduled": 2e-3, "lr_active": "drift", "trained_tokens": 100, "groups": 16, "late": 3,
        "unscored": 0.25, "unscored_groups": 2, "segments": 1.5, "reward_sd": 0.4, "truncated": 0.125, "informative": 0.5,
        "all_right": 0.25, "all_wrong": 0.125, "length": LENGTH, "length_positive": LENGTH, "length_negative": None,
        "length_by_finish": {"stop": LENGTH, "length": None, "abort": None}, "replaced": 8, "ending": "most", "consumed": 20,
        "tokens_wasted": {"expired": 700, "unusable": 0, "lost": 0, "quarantined": 90},
        "tasks": {"add": {"groups": 16, "reward": 0.5, "reward_sd": 0.4, "informative": 0.5, "parts": {"exact": 0.75}}},
        "expert_load": {"1": 2.5}, "expert_load_max": 2.5, "expert_idle_max": 0.25,
        "m2po_limit": 0.25, "routing_replayed": 0.75, "routing_disagreement": 0.125,
        "routing_records": {"replayed": 5, "absent": 1},
        "wait_s": 0.5, "train_s": 1.0, "step_s": 1.6,
    }  # fmt: skip


def test_every_row_of_the_record_becomes_metrics(tmp_path: Path, config: LearnerConfig):
    metrics = RankMetrics(RankHealth(10))
    assert "step" not in shown(metrics)  # of the run only rank 0 speaks
    writer = MetricsWriter(tmp_path, [], "run", metrics.add_run(config))
    fresh = shown(metrics)
    assert fresh["alarms_total/rho"] == fresh["publication_failures_total"] == fresh["rollbacks_total"] == 0
    assert math.isnan(fresh["reward"])
    assert math.isnan(fresh["expert_load_ratio"])
    assert math.isnan(fresh["m2po_limit_nats"])
    assert fresh["alarms_total/experts"] == 0
    assert (fresh["staleness_limit_steps"], fresh["expiry_limit_steps"]) == (3, 24)
    writer.event("start", epoch=2, resumed_step=7)
    writer.step(row(8) | {"true_drift": -0.02, "unusable": 3})
    writer.event("quarantined", step=9, fleet="oslo", group="g", prompt="p", fault="non-finite loss (nan)")
    writer.step(row(9))
    writer.event("version", version=9, step=9, seconds=0.3)
    writer.event("checkpoint", step=9, seconds=1.5, committed=32)
    writer.event("alarm", step=9, rule="rho", action="warn", reason="0.4")
    for kind in ("publish_failed", "checkpoint_failed", "skipped", "skipped"):
        writer.event(kind, step=9)
    writer.event("rollback", lost=5, step=9)
    writer.event("something new", step=9)
    writer.close()
    seen = shown(metrics)
    expected = {
        "step": 9, "version": 9, "epoch": 2, "reward": 0.5, "staleness_max_steps": 3, "nll_nats/positive": 0.7,
        "learning_rate": 1e-3, "learning_rate_bound/drift": 1, "learning_rate_bound/none": 0, "trained_tokens_total": 200,
        "groups_total": 32, "late_groups_total": 6, "unscored_groups_total": 4, "unscored_ratio": 0.25,
        "response_segments": 1.5,
        "phase_seconds_total/wait": 1.0, "phase_seconds_total/train": 2.0, "step_seconds_count": 2,
        "publication_seconds": 0.3, "checkpoint_seconds": 1.5, "committed_groups_total": 32, "alarms_total/rho": 1,
        "publication_failures_total": 1, "checkpoint_failures_total": 1, "skipped_steps_total": 2, "rollbacks_total": 1,
        "refused_groups_total": 1,
        "expert_load_ratio": 2.5, "expert_idle_ratio": 0.25, "m2po_limit_nats": 0.25, "routing_replayed_ratio": 0.75,
        "routing_disagreement_ratio": 0.125, "routing_records_total/replayed": 10, "routing_records_total/foreign": 0,
        "reward_sd": 0.4, "truncated_ratio": 0.125, "groups_ratio/informative": 0.5, "groups_ratio/all_right": 0.25,
        "groups_ratio/all_wrong": 0.125, "groups_ratio/unscored": 0.125, "response_tokens/all/p95": 300,
        "response_tokens/positive/max": 512, "response_tokens/stop/mean": 120.5, "replaced_groups_total": 16,
        "collections_total/most": 2, "collections_total/full": 0, "consumed_groups": 20, "wasted_tokens_total/expired": 1400,
        "wasted_tokens_total/quarantined": 180, "wasted_tokens_total/lost": 0, "task_reward/add": 0.5,
        "task_informative_ratio/add": 0.5, "task_part_reward/exact/add": 0.75,
        "given_up_groups_total": 5, "drift_nats": -0.02, "unusable_groups": 3,
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected
    assert math.isnan(seen["rho"])
    assert math.isnan(seen["response_tokens/negative/p50"])
    assert math.isnan(fresh["response_tokens/abort/p50"])
    assert math.isnan(fresh["groups_ratio/all_right"])
    assert (fresh["wasted_tokens_total/expired"], fresh["consumed_groups"]) == (0, 16)
    for name in ("step", "checkpoint", "publication"):
        assert abs(seen[f"{name}_timestamp_seconds"] - time.time()) < 60


def test_tasks_and_parts_beyond_the_bound_share_one_series(tmp_path: Path, config: LearnerConfig):
    metrics = RankMetrics(RankHealth(10))
    writer = MetricsWriter(tmp_path, [], "run", metrics.add_run(config))
    for step in range(1, 41):
        task = {
            "groups": 1,
            "reward": float(step),
            "reward_sd": 0.0,
            "informative": 0.0,
            "parts": {f"part-{step}": 1.0},
        }
        writer.step(row(step) | {"tasks": {f"task-{step}": task}})
    writer.step(row(41) | {"tasks": {"task-1": task | {"reward": None}}})
    writer.close()
    seen = shown(metrics)
    rewards = {name: value for name, value in seen.items() if name.startswith("task_reward/")}
    assert len(rewards) == 33
    assert (rewards["task_reward/task-1"], rewards["task_reward/other"]) == (1, 40)
    assert len([name for name in seen if name.startswith("task_part_reward/")]) == 34  # task-1 has part-1, and other
    assert seen["task_part_reward/other/other"] == 1


def test_disk_space_is_shown_for_both_directories(config: LearnerConfig):
    metrics = RankMetrics(RankHealth(10))
    metrics.add_run(config)
    deadline = time.monotonic() + 60
    while "disk_free_bytes/weights" not in (seen := shown(metrics)):
        assert time.monotonic() < deadline
    assert 0 < seen["disk_free_bytes/checkpoints"] <= seen["disk_size_bytes/checkpoints"]


def test_a_rank_is_ready_between_opening_and_closing_and_alive_while_it_moves(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("runtime.status.time.monotonic", lambda: now[0])
    health = RankHealth(10)
    assert "starting" in (health.ready() or "")
    health.progress()
    now[0] = 100.0
    assert health.alive() is None  # loading a model takes its time
    health.opened()
    assert health.ready() is None
    assert "nothing has moved for 100 s" in (health.alive() or "")
    health.progress()
    assert health.alive() is None
    health.closing()
    assert health.ready() == "ending"
