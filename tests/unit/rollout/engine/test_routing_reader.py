"""What SGLang says of the experts that it sent tokens to: layers without experts, rows, and what cannot be true."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from rollout.engine.routing_reader import TOLD, RoutingReader
from runtime.settings import SettingsError

# Three layers, of which the second is dense; two of five experts; a prompt of two tokens, a response of two.
IDS = [[[4, 0], [0, 0], [1, 2]], [[0, 3], [0, 0], [2, 1]], [[1, 0], [0, 0], [3, 4]]]


def told(ids: Any, **more: Any) -> dict[str, Any]:
    encoded = base64.b64encode(np.array(ids, "<i4").tobytes()).decode()
    return {"routed_experts": encoded, "prompt_tokens": 2, **more}


def reader(layers: int = 3, top_k: int = 2, experts: int = 5) -> RoutingReader:
    return RoutingReader(layers, top_k, experts)


def test_layers_without_experts_are_left_out_and_ids_are_packed_as_the_contract_has_them():
    found = reader().read(told(IDS), 2)
    assert found is not None
    assert (found.shape.layers, found.shape.top_k, found.shape.experts) == ((0, 2), 2, 5)
    message = found.message()
    assert (list(message.layers), message.top_k, message.experts, message.start) == ([0, 2], 2, 5, 0)
    assert message.ids == bytes([4, 0, 1, 2, 0, 3, 2, 1, 1, 0, 3, 4])


def test_ids_of_more_than_256_experts_take_two_bytes():
    found = reader(1, 2, 300).read(told([[[299, 1]]]), 0)
    assert found is not None
    assert found.message().ids == b"\x2b\x01\x01\x00"


def test_of_one_expert_a_token_it_cannot_be_told_which_layers_are_dense():
    found = reader(2, 1, 5).read(told([[[0], [3]]]), 0)
    assert found is not None
    assert found.shape.layers == (0, 1)


def test_tokens_that_were_cut_off_have_no_experts():
    found = reader().read(told(IDS), 1)
    assert found is not None
    assert found.ids.tolist() == [[IDS[0][0], IDS[0][2]], [IDS[1][0], IDS[1][2]]]


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"prompt_tokens": 2}, "start the engine with --enable-return-routed-experts"),
        (told(IDS[:2]), "2 tokens have experts, 3 were read"),
        (told([*IDS[:2], [[1, 5], [0, 0], [3, 4]]]), "token 2 was sent to 5 in layer 0, as choice 1"),
        (told([*IDS[:2], [[1, 0], [0, 0], [3, -1]]]), "token 2 was sent to -1 in layer 2"),
        (told([*IDS[:2], [[1, 0], [0, 0], [3, 3]]]), "token 2 was sent to 3 in layer 2, as choice 1"),
        (told(np.zeros((3, 3, 2))), "all ids are 0"),
        (told([1, 2, 3, 4]), "reshape"),
        ({"routed_experts": "?", "prompt_tokens": 2}, "Error"),
        ({"routed_experts": told(IDS)["routed_experts"]}, "prompt_tokens"),
    ],
)
def test_a_response_goes_without_what_cannot_be_true_which_is_counted_and_said_once(meta: dict[str, Any], problem: str):
    one = reader()
    with capture_logs() as logs:
        assert one.read(meta, 2) is None
        assert one.read(meta, 2) is None
    assert [log["log_level"] for log in logs] == ["warning"]
    assert problem in logs[0]["problem"]
    kind = "absent" if "routed_experts" not in meta else "malformed"
    assert one.told == dict.fromkeys(TOLD, 0) | {kind: 2}


def test_responses_whose_experts_no_message_has_room_for_are_counted_and_said_once():
    one = reader()
    with capture_logs() as logs:
        for responses in (0, 3, 2):
            one.dropped(responses)
    assert [(log["log_level"], log["reason"], log["responses"]) for log in logs] == [
        ("warning", "max_message_bytes", 3)
    ]
    assert one.told == dict.fromkeys(TOLD, 0) | {"too_large": 5}


def test_the_models_config_says_what_is_read(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_hidden_layers": 3, "num_experts_per_tok": 2, "n_routed_experts": 5}))
    one = RoutingReader.of(tmp_path)
    assert one.read(told(IDS), 2) is not None
    assert one.told["recorded"] == 1
    path.write_text(json.dumps({"num_hidden_layers": 3}))
    with pytest.raises(SettingsError, match=r"return_routed_experts = true: .* has no experts .*set it to false"):
        RoutingReader.of(tmp_path)
    path.write_text(json.dumps({"num_experts": 4}))
    with pytest.raises(SettingsError, match="num_hidden_layers"):
        RoutingReader.of(tmp_path)
