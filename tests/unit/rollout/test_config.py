"""Settings of a worker that follow from others."""

from pathlib import Path

import pytest

from rollout.config import WorkerConfig
from runtime.settings import SettingsError


def config(**changes: object) -> WorkerConfig:
    places = dict.fromkeys(("model", "state_dir", "log_dir"), Path("/nowhere"))
    allowed = ["file:///nowhere"]
    return WorkerConfig.parse({"gateway": "127.0.0.1:1", "allowed_uris": allowed, **places, **changes}, source="test")


def test_the_limit_of_a_request_follows_the_length_of_a_response_unless_it_is_set():
    assert config(sampling={"max_new_tokens": 64}).request_timeout_s == 92
    assert config(sampling={"max_new_tokens": 32_768}).request_timeout_s == 60 + 16_384
    assert config(sampling={"max_new_tokens": 64}, engine={"request_timeout_s": 5}).request_timeout_s == 5


def test_messages_stay_below_the_largest_value_of_redis():
    assert config(max_message_bytes=(512 << 20) - 1).max_message_bytes == (512 << 20) - 1
    with pytest.raises(SettingsError, match=r"max_message_bytes.*less than 536870912"):
        config(max_message_bytes=512 << 20)
