"""Settings of a gateway: what Redis and gRPC could not take is refused."""

from __future__ import annotations

import pytest

from learner.config.gateway import LimitsConfig
from runtime.settings import SettingsError


@pytest.mark.parametrize("most", [512 << 20, 1 << 31])
def test_messages_stay_below_the_largest_value_of_redis(most: int):
    allowed = LimitsConfig.parse({"vocab_size": 11, "max_message_bytes": (512 << 20) - 1}, source="test")
    assert allowed.max_message_bytes == (512 << 20) - 1
    with pytest.raises(SettingsError, match=r"max_message_bytes.*less than 536870912"):
        LimitsConfig.parse({"vocab_size": 11, "max_message_bytes": most}, source="test")
