"""What further messages add to a conversation that has been answered, on templates that end messages in odd ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.data.tokenizer import Tokenizer
from rollout.episodes.answer_parser import ParserConfigError
from rollout.episodes.calls import ChatCall
from rollout.episodes.chat_format import AnswerSoFar, ChatFormat, Conversation
from tests.tools.chat_model import write_chat_model
from tests.tools.episode_world import user

HI = {"role": "assistant", "content": "hello"}
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}END{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"


def formatted(directory: Path, template: str, **options) -> tuple[ChatFormat, Tokenizer]:
    model = write_chat_model(directory, "chatml")
    (model / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer(model)
    return ChatFormat(tokenizer, **options), tokenizer


def suffix(
    directory: Path, template: str, generated: str, message: dict | None = None, end: str | None = "<|im_end|>"
) -> str | None:
    """The text that a user's turn adds after an answer that was generated as ``generated``."""
    made, tokenizer = formatted(directory, template)
    asked = Conversation([user("q")], (), {})
    ended_by = None if end is None else tokenizer.single_id(end)
    answered = AnswerSoFar(made.render(asked), generated, message or HI, ended_by)
    found = made.suffix(answered, asked.followed_by([message or HI, user("more")]), 1)
    if found is None:
        return None
    assert found[0] == made.render(asked.followed_by([message or HI, user("more")]))
    return tokenizer.part(found[1])


ENDED = TURNS.replace("END", "<|im_end|>") + PROMPT
NEXT = "<|im_start|>user:more<|im_end|><|im_start|>assistant:"


@pytest.mark.parametrize(
    ("template", "generated", "end", "expected"),
    [
        (ENDED, "hello<|im_end|>", "<|im_end|>", NEXT),
        (ENDED, "hello", None, "<|im_end|>" + NEXT),
        (ENDED, " hello<|im_end|>", "<|im_end|>", NEXT),  # written otherwise than the template would
        (ENDED, " hello", None, "<|im_end|>" + NEXT),
        (ENDED, "hello<|endoftext|>", "<|endoftext|>", NEXT),
        # A template without an end token: the one that was generated stands for itself.
        (TURNS.replace("END", "") + PROMPT, "hello", None, "<|im_start|>user:more<|im_start|>assistant:"),
        (
            TURNS.replace("END", "\n") + PROMPT,
            " hello<|im_end|>",
            "<|im_end|>",
            "\n" + NEXT.replace("<|im_end|>", "\n"),
        ),
    ],
)
def test_the_end_of_a_message_is_added_as_far_as_it_was_not_generated(tmp_path, template, generated, end, expected):
    assert suffix(tmp_path, template, generated, end=end) == expected


def test_a_message_that_ends_otherwise_than_a_plain_one_ends_at_its_end_token(tmp_path):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}{% if m.name %}({{ m.name }})<|endoftext|>"
        "{% else %}<|im_end|>{% endif %}{% endfor %}" + PROMPT
    )
    message = {**HI, "name": "x"}
    assert suffix(tmp_path, template, "hello (x)<|endoftext|>", message, "<|endoftext|>") == NEXT
    assert suffix(tmp_path, template, "hello (x)", message, None) == "<|endoftext|>" + NEXT


@pytest.mark.parametrize(
    "template",
    [
        # Renders what was asked otherwise once it is answered.
        "{% if messages[-1].role == 'user' and messages|length == 1 %}!{% endif %}" + ENDED,
        # Renders an answer otherwise once it is followed by anything.
        ENDED.replace("m.content", "(m.content if loop.last or m.role == 'user' else m.content|upper)"),
        # Never shows reasoning.
        ENDED,
    ],
)
def test_a_template_that_changes_what_was_seen_is_not_continued(tmp_path, template: str):
    thought = {**HI, "reasoning_content": "hm"}
    assert suffix(tmp_path, template, "<think>hm</think>hello<|im_end|>", thought) is None


def test_keywords_of_the_settings_hold_where_a_call_has_none(tmp_path):
    made, tokenizer = formatted(tmp_path, "{{ a }}{{ b }}{{ messages[0].content }}", keywords={"a": 1, "b": 2})
    assert made.render(Conversation([user("q")], (), {"b": 3})) == "13q"
    assert made.count(ChatCall([user("q")])) == len(tokenizer.rendered_ids("12q"))


def test_a_parser_that_is_not_known_is_found_at_the_start(tmp_path):
    with pytest.raises(ParserConfigError, match="tool_parser = 'no'"):
        formatted(tmp_path, ENDED, tool_parser="no")
