"""What is known of a prompt before it is sent: whether an engine can answer it."""

import json
from pathlib import Path

import pytest

from rollout.engine.prompt_limits import PromptLimits, context_length


def test_a_prompt_and_its_response_have_to_fit_into_the_context():
    limits = PromptLimits(vocab_size=16, context=10)
    assert limits.problem([1] * 6, 4) is None
    problem = limits.problem([1] * 7, 4)
    assert problem is not None
    assert problem.finish == "too_long"


def test_what_the_server_says_of_itself_counts_more_than_the_model():
    limits = PromptLimits(vocab_size=16, context=10)
    assert limits.as_told({"context_length": 8, "max_req_input_len": 6}) == PromptLimits(16, 8, 5)
    assert limits.as_told({"context_length": None}) == limits
    assert limits.as_told({"context_length": "8", "max_req_input_len": 0}) == limits


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"text_config": {"max_position_embeddings": 256}, "max_position_embeddings": 512}, 256),
        ({"max_position_embeddings": 512, "rope_scaling": None, "rope_parameters": {"rope_theta": 1e4}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"factor": 4.0}}, None),  # the server knows, we do not
        ({}, None),
    ],
)
def test_the_models_context_length(tmp_path: Path, config: dict, length: int | None):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == length
    assert context_length(tmp_path / "elsewhere") is None
