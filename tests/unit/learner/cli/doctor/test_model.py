"""Model directories that are incomplete, damaged, of an unknown kind, or do not fit the layout."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from learner.cli.doctor import model
from tests.tools.doctor_site import Site, bad


def test_a_model_directory_that_is_sound(site: Site):
    assert bad(model.model(site.read("learner"))) == []
    assert sum(model.tensors_of(site.model).values()) == model.parameters(site.read("learner"))


def test_a_truncated_file_of_weights(site: Site):
    path = next(site.model.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    assert "its header says" in bad(model.model(site.read("learner")))[0]
    path.write_bytes(struct.pack("<Q", 1 << 60))
    assert "not a safetensors file" in bad(model.model(site.read("learner")))[0]


def test_an_index_that_lists_what_no_file_has(site: Site):
    (site.model / "model.safetensors.index.json").write_text('{"weight_map": {"lost": "model-2.safetensors"}}')
    assert "lists lost in model-2.safetensors" in bad(model.model(site.read("learner")))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "gpt_oss"}, "model_type = 'gpt_oss'"), ({"vocab_size": 5}, "the tokenizer has id 1")],
)
def test_a_model_of_another_kind_or_with_the_tokenizer_of_another(site: Site, change: dict[str, Any], message: str):
    path = site.model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert any(message in found for found in bad(model.model(site.read("learner"))))


def test_a_model_without_a_tokenizer_and_one_that_does_not_fit_the_layout(site: Site):
    found = bad(model.model(site.read("learner", parallel={"tensor": 64})))
    assert "parallel.tensor = 64 does not divide" in found[0]
    (site.model / "tokenizer.json").unlink()
    assert "no tokenizer.json" in bad(model.model(site.read("learner")))[0]
