"""Models with chat templates, and episodes on a scripted engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from rollout.data.tokenizer import Tokenizer
from tests.tools.chat_model import write_chat_model
from tests.tools.episode_world import TEMPLATES, World


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {name: Tokenizer(write_chat_model(tmp_path_factory.mktemp(name), name)) for name in TEMPLATES}


@pytest.fixture(scope="session")
def world(tokenizers: dict[str, Tokenizer]) -> Callable[..., World]:
    """Makes a world of the named template's model."""

    def make(template: str, *texts: str, **options: Any) -> World:
        return partial(World.of, tokenizers[template])(*texts, **options)

    return make
