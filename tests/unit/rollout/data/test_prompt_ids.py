"""Token ids of prompts: raw text, a user turn, or messages with the keywords of the chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollout.config import TaskConfig
from rollout.data.demo_model import write_model
from rollout.data.prompt_ids import prompt_ids
from rollout.data.tokenizer import Tokenizer
from rollout.tasks import Prompt

TEMPLATE = (
    "{% for message in messages %}{{ message.role | length }}{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '9' if think else '8' }}{% endif %}="
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_model(tmp_path, seed=0)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "config", "ids"),
    [
        (Prompt("p", "12="), {}, [14, 1, 2, 11]),
        (Prompt("p", "12"), {"prompt_format": "chat"}, [4, 1, 2, 8, 11]),
        (Prompt("p", "12"), {"prompt_format": "chat", "template": {"think": True}}, [4, 1, 2, 9, 11]),
        (
            Prompt("p", messages=[{"role": "system", "content": "3"}, {"role": "user", "content": "12"}]),
            {"template": {"think": True}},
            [6, 3, 4, 1, 2, 9, 11],
        ),
    ],
)
def test_prompts_are_rendered_as_the_settings_say(tokenizer: Tokenizer, prompt: Prompt, config: dict, ids: list[int]):
    assert prompt_ids(prompt, tokenizer, TaskConfig.parse(config, source="test")) == ids
