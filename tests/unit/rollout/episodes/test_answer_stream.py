"""What is shown while an answer comes is the beginning of what the whole answer has, whatever it contains."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import Response
from rollout.episodes.answer_parser import FORMATS, ParsedAnswer
from rollout.episodes.answer_reader import AnswerReader
from rollout.episodes.answer_stream import AnswerStream
from rollout.episodes.reasoning import split_reasoning
from rollout.episodes.tool_call import ParsedContent
from tests.tools.chat_model import MARKS, SPECIAL, OddTokens
from tests.tools.episode_world import Shown

CALL = '{"name": "add", "arguments": {"n": 1}}'
MARKERS = [*MARKS, "<|python_tag|>", "<th", "ink>", "<tool", "_call>", "</", "<|im_end|>", "STOP", "ST", "OP"]
PIECES = st.sampled_from([*MARKERS, CALL, "{", "[", "[add(n=1)]", "hello", " ", "\n", "é", "日本", "🙂", "12"])
TEXT = st.lists(PIECES, max_size=10).map("".join)


def parsed(text: str, name: str | None, reasoning: bool | None) -> ParsedAnswer:
    thought, content = ("", text) if reasoning is None else split_reasoning(text, reasoning)
    found = FORMATS[name].parse(content) if name else ParsedContent(content)
    return ParsedAnswer(thought, found.content, found.calls)


@settings(max_examples=400, deadline=None)
@given(
    text=TEXT,
    name=st.sampled_from([None, *FORMATS]),
    reasoning=st.sampled_from([None, False, True]),
    stop=st.sampled_from([(), ("STOP",), ("STOP", "OP<", "\n12")]),
    seed=st.integers(0, 99),
    size=st.integers(1, 5),
)
def test_what_is_shown_is_never_taken_back(tokenizers, text, name, reasoning, stop, seed, size):
    tokenizer: Tokenizer = tokenizers["chatml"]
    tokens = OddTokens(tokenizer, seed).ids(text)
    for end in range(len(tokens)):  # the engine ends at the token that completes a stop text
        if any(one in tokenizer.part(tokens[: end + 1]) for one in stop):
            tokens = tokens[: end + 1]
            break
    shown = Shown()
    stream = AnswerStream(shown, FORMATS[name] if name else None, reasoning, stop)
    reader = AnswerReader(tokenizer, tokenizer.eos_ids, stop, stream)
    for start in range(0, len(tokens), size):
        reader.push(tokens[start : start + size])
    before = Shown(shown.text, shown.reasoning)
    whole = reader.complete(Response(tokens, "stop", []))
    expected = tokenizer.text(tokens)
    cut = [at for at in map(expected.find, stop) if at >= 0]
    assert whole == (expected[: min(cut)] if cut else expected)
    answer = parsed(whole, name, reasoning)
    assert answer.content.startswith(shown.text)
    assert answer.reasoning.startswith(shown.reasoning)
    reader.show(answer)
    assert (shown.text, shown.reasoning) == (answer.content, answer.reasoning)
    assert before.text in answer.content


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hello", ["h", "e", "l", "l", "o"]),
        ("a<b", ["a", "<b"]),
        ("a\n\nb", ["a", "\n\nb"]),
        ("<think>a\n</think>\n\nb", ["a", "b"]),
        ("a<tool_call>x", ["a"]),
    ],
)
def test_text_is_shown_as_soon_as_it_is_certain(text: str, shown: list[str]):
    found: list[str] = []
    stream = AnswerStream(lambda delta: found.append(delta.text or delta.reasoning), FORMATS["hermes"], False, ())
    for letter in text:
        stream.push(letter)
    assert found == shown


def test_special_tokens_in_the_middle_are_text_and_at_the_end_are_none(tokenizers):
    tokenizer, shown = tokenizers["chatml"], Shown()
    ids = tokenizer.rendered_ids("a<|im_end|>b<|im_end|>")
    reader = AnswerReader(tokenizer, tokenizer.eos_ids, (), AnswerStream(shown, None, None, ()))
    reader.push(ids)
    assert shown.text == "a<|im_end|>b"
    assert reader.complete(Response(ids, "stop", [])) == "a<|im_end|>b"
    assert SPECIAL[3] == "<|im_end|>"
