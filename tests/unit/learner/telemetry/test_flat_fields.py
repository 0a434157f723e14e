"""Names of nested fields as loggers get them, and configurations without their credentials."""

from learner.config import LearnerConfig
from learner.telemetry.flat_fields import HIDDEN, numbers, shown_config


def test_nested_fields_get_names_with_slashes_and_only_numbers_are_left():
    row = {
        "step": 3, "reward": 0.5, "finite": True, "rho": None, "lr_active": "none", "length": {"mean": 8.5, "max": 9},
        "length_negative": None, "staleness_tokens": {"0": 7}, "reward_staleness": {"0": [0.5, 3]}, "tasks": {
            "gsm8k": {"groups": 4, "reward": None, "parts": {"exact": 0.25}},
            "open/r1 (hard)": {"reward": 1.0}, "..": {"reward": 2.0}, "a/../ü": {"reward": 3.0},
        },
    }  # fmt: skip
    assert numbers(row) == {
        "reward": 0.5, "finite": 1.0, "length/mean": 8.5, "length/max": 9.0, "staleness_tokens/0": 7.0,
        "tasks/gsm8k/groups": 4.0, "tasks/gsm8k/parts/exact": 0.25, "tasks/open_r1 _hard_/reward": 1.0,
        "tasks/__/reward": 2.0, "tasks/a_..__/reward": 3.0,
    }  # fmt: skip


def test_a_configuration_is_shown_without_its_credentials():
    values = {
        "model": "m", "queue": {"url": "rediss://me:hunter2@host:1/0", "run": "r", "password_file": None}, "steps": 9,
        "metrics_dir": "x", "checkpoint": {"dir": "x"}, "publish": {
            "dir": "x", "mirror": [{
                "name": "tokyo", "url": "s3://bucket/x", "url_options": {"key": "AKIA1", "client_kwargs": {"x": "hunter3"}},
            }],
        },
    }  # fmt: skip
    config = LearnerConfig.parse(values, "test")
    shown = shown_config(config.model_dump(mode="json"))
    assert not any(secret in text for text in shown.values() for secret in ("hunter2", "hunter3", "AKIA1"))
    assert shown["queue/url"] == "rediss://***@host:1/0"
    assert shown["publish/mirror/tokyo/url"] == "s3://bucket/x"
    assert shown["publish/mirror/tokyo/url_options/key"] == HIDDEN
    assert (shown["optimizer/lr"], shown["groups_per_step"], shown["refill/most"]) == ("1e-06", "16", "4")
    other = shown_config(
        {"password_file": "/run/secrets/x", "api_key": "k", "micro_batch_tokens": 5, "stop_token": "s"}
    )
    assert other == {
        "password_file": "/run/secrets/x",
        "api_key": HIDDEN,
        "micro_batch_tokens": "5",
        "stop_token": HIDDEN,
    }
