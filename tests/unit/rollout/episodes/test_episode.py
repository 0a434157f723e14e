"""Episodes on a scripted engine: what it was given and returned is what the record has, token by token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rollout.data.chat_message import canonical
from rollout.engine.response import VersionSpan, joined, moved
from rollout.episodes.calls import Answer, ChatCall
from rollout.episodes.errors import ChatRequestError
from rollout.episodes.reasoning import CLOSE, OPEN
from rollout.episodes.record import EpisodeRecord
from tests.tools.chat_model import PADDING, EngineTurn
from tests.tools.episode_world import TEMPLATES, Shown, World, talk, user

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
OTHER_TOOL = {"type": "function", "function": {"name": "look_up"}}
# Templates that render a conversation that goes on as they rendered it before, whatever it contains.
STABLE = ("chatml", "headers")
WORDS = [
    "hello",
    " world",
    "é",
    "日本",
    "🙂",
    "12",
    "\n",
    "<",
    "</",
    "{",
    "name",
    '"',
    "<|im_start|>",
    " ",
    "</tool_call>",
]
TEXT = st.lists(st.sampled_from(WORDS), max_size=6).map("".join)
STEP = st.fixed_dictionaries(
    {
        "do": st.sampled_from(["go on"] * 8 + ["rewrite", "begin", "again", "cancel"]),
        "say": TEXT,
        "content": TEXT,
        "thought": st.none() | TEXT,
        "calls": st.integers(0, 2),
        "spaces": st.booleans(),  # JSON otherwise than the template writes it
        "end": st.sampled_from(["end", "end", "cut", "other"]),
        "form": st.integers(0, 63),
        "stream": st.booleans(),
    }
)


def written(template: str, step: dict[str, Any], end: str) -> str:
    """The text that the model generates in a step."""
    separators = (" , ", " :") if step["spaces"] else (", ", ": ")
    ends = {"end": end, "other": PADDING, "cut": ""}[step["end"]]
    thought = f"{OPEN}\n{step['thought']}\n{CLOSE}\n\n" if step["thought"] is not None else ""
    if template == "opened":
        thought = thought.removeprefix(f"{OPEN}\n") or f"\n{CLOSE}\n\n"
    elif template != "thinking":
        thought = ""
    names = ("name", "parameters") if template == "headers" else ("name", "arguments")
    calls = [
        json.dumps({names[0]: "add", names[1]: {"n": index, "é": "ü"}}, ensure_ascii=False, separators=separators)
        for index in range(step["calls"])
    ]
    if template == "headers":
        return (calls[0] if calls else step["content"]) + ends
    if template == "opened":
        return thought + step["content"] + ends
    line = "\n" if template == "thinking" else ""
    blocks = [f"<tool_call>{line}{call}{line}</tool_call>" for call in calls]
    lines = "" if template == "counting" else "\n"
    content = [step["content"]] if step["content"] or template == "chatml" else []
    return thought + lines.join([*content, *blocks]) + ends


def sent(message: dict[str, Any], form: int) -> dict[str, Any]:
    """Writes a message as a client library may: none of it is a difference."""
    made = dict(message)
    if form & 1:
        made.pop("reasoning_content", None)
    if form & 2 and made["content"]:
        made["content"] = [{"type": "text", "text": made["content"]}]
    if form & 4 and made["content"] in (None, ""):
        made["content"] = None if made["content"] == "" else ""
    if form & 8 and made["role"] == "assistant":
        made |= {"refusal": None, "annotations": [], "audio": None, "function_call": None, "name": None}
    if form & 16 and made.get("tool_calls"):
        made["tool_calls"] = [
            {"function": {"arguments": json.loads(call["function"]["arguments"]), "name": "add"}, "id": call["id"]}
            for call in made["tool_calls"]
        ]
    return dict(reversed(made.items())) if form & 32 else made


class Agent:
    """Plays random conversations with an episode and remembers what it has seen."""

    def __init__(self, template: str, world: World) -> None:
        self.template, self.world = template, world
        self.episode = world.book.open("prefix")
        self.history: list[dict[str, Any]] = []  # with our answers as they were given
        self.tools = (TOOL,) if template != "opened" else ()
        self.answers: list[tuple[Answer, EngineTurn]] = []
        self.exact = self.exact_before = True
        self.asked = 0

    def ask(self, step: dict[str, Any]) -> list[dict[str, Any]]:
        last = self.history[-1] if self.history else {}
        self.asked += 1  # so that no two conversations are the same
        if step["do"] == "begin" or not self.history:
            self.history, self.exact = [{"role": "system", "content": f"Be {self.asked}"}, user(step["say"])], True
        elif step["do"] == "rewrite":
            # The system turn, which is shared, and a summary.
            self.history, self.exact = [self.history[0], user(f"So far {self.asked}: {step['say']}")], True
        elif step["do"] == "again":
            self.history, self.exact = self.history[:-1], self.exact_before
            self.answers.pop()
        elif last.get("tool_calls"):
            results = [
                {"role": "tool", "tool_call_id": call["id"], "content": step["say"]} for call in last["tool_calls"]
            ]
            self.history = [*self.history, *results]
        elif last["role"] == "assistant":
            self.history = [*self.history, user(step["say"])]
        return [sent(message, step["form"]) for message in self.history]

    async def play(self, step: dict[str, Any]) -> None:
        messages, before = self.ask(step), len(self.world.engine.exchanges)
        shown = Shown()
        answer = await self.episode.chat(ChatCall(messages, self.tools), shown if step["stream"] else None)
        (exchange,) = self.world.engine.exchanges[before:]
        assert answer.tokens == exchange.tokens
        assert answer.versions == exchange.spans
        assert answer.prompt_tokens == len(exchange.prompt)
        assert exchange.affinity == "prefix"
        if step["stream"]:
            assert shown.text == (answer.message["content"] or "")
            assert shown.reasoning == answer.message.get("reasoning_content", "")
        self.check_text(step, answer, exchange)
        self.check_prompt(exchange)
        self.answers.append((answer, exchange))
        self.history = [*self.history, answer.message]
        self.exact_before, self.exact = self.exact, self.exact and self.is_exact(step, answer)

    def check_text(self, step: dict[str, Any], answer: Answer, exchange: EngineTurn) -> None:
        """What the client saw is what was generated."""
        text = self.world.tokenizer.text(exchange.tokens)
        saw = answer.message["content"] or ""
        thought = answer.message.get("reasoning_content", "")
        calls = answer.message.get("tool_calls", [])
        if not calls and not thought and self.template not in ("thinking", "opened"):
            assert saw == text
        rest = text
        for piece in (thought, saw):
            assert piece in rest
            rest = rest.partition(piece)[2] if piece else rest
        assert len(calls) == (
            min(step["calls"], 1) if self.template == "headers" else step["calls"] if self.tools else 0
        )
        for index, call in enumerate(calls):
            assert json.loads(call["function"]["arguments"]) == {"n": index, "é": "ü"}
        assert answer.finish == ("length" if step["end"] == "cut" else "tool_calls" if calls else "stop")

    def check_prompt(self, exchange: EngineTurn) -> None:
        """What the model read is what the template makes of the conversation."""
        rendered = self.world.tokenizer.chat_template.render(canonical(self.history), self.tools)
        read = self.world.part(exchange.prompt)
        if self.exact:
            assert read == rendered
        else:  # the last message that is not ours, and the beginning of an answer
            begin = "<|start_header_id|>" if self.template == "headers" else "<|im_start|>"
            assert read.endswith(begin + begin.join(rendered.split(begin)[-2:]))

    def is_exact(self, step: dict[str, Any], answer: Answer) -> bool:
        """Whether the template writes the answer as it was generated."""
        same_json = not (step["spaces"] and step["calls"])
        plain = step["content"] == step["content"].strip() and same_json and step["end"] != "other"
        calls = answer.message.get("tool_calls")
        if self.template == "headers":
            # Its calls end with <|eom_id|>; the script ends them with <|eot_id|>.
            return plain and not (calls and step["end"] == "end")
        return plain and self.template != "opened" and (step["thought"] or "").strip("\n") == (step["thought"] or "")

    def check_record(self, record: EpisodeRecord) -> None:
        by_segment: dict[int, list[EngineTurn]] = {}
        for answer, exchange in self.answers:
            if not answer.continued:
                assert answer.segment not in by_segment
            by_segment.setdefault(answer.segment, []).append(exchange)
        full = [exchanges for _, exchanges in sorted(by_segment.items()) if any(e.tokens for e in exchanges)]
        assert len(record.segments) == len(full)
        for segment, exchanges in zip(record.segments, full, strict=True):
            whole: list[int] = []
            spans: list[VersionSpan] = []
            for exchange in exchanges:
                assert exchange.prompt[: len(whole)] == whole
                whole = [*exchange.prompt, *exchange.tokens]
                spans += moved(exchange.spans, len(exchange.prompt))
            assert segment.context == exchanges[0].prompt
            assert segment.tokens == whole[len(segment.context) : spans[-1].end]
            assert moved(segment.spans, len(segment.context)) == joined(spans)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=60, deadline=None, phases=set(Phase) - {Phase.explain})
@given(steps=st.lists(STEP, min_size=1, max_size=7), seed=st.integers(0, 1000))
def test_a_record_is_what_the_engine_was_given_and_returned(world, template: str, steps, seed: int):
    async def play() -> None:
        made = world(template, seed=seed)
        end = made.part(made.tokenizer.eos_ids[:1])
        made = world(template, *(written(template, step, end) for step in steps), seed=seed)
        agent = Agent(template, made)
        for number, step in enumerate(steps):
            if step["do"] == "cancel":
                made.engine.calls = number
                await hang_up(agent, step)
            made.engine.calls = number
            await agent.play(step)
        record = agent.episode.close()
        agent.check_record(record)
        assert record.calls == len(steps)
        if template in STABLE:
            begun = 1 + sum(step["do"] in ("begin", "rewrite") for step in steps[1:])
            assert len({answer.segment for answer, _ in agent.answers}) <= begun
            assert "template_not_prefix_stable" not in made.counts.openings
        assert set(made.counts.calls) <= {"answered", "cancelled"}

    asyncio.run(play())


async def hang_up(agent: Agent, step: dict[str, Any]) -> None:
    """Asks what will be asked again, and does not wait for the answer."""
    history, exact, before, engine = agent.history, agent.exact, agent.exact_before, agent.world.engine
    reached = asyncio.Event()

    async def never(call: int) -> None:
        reached.set()
        await asyncio.Event().wait()

    gate, engine.gate = engine.gate, never
    task = asyncio.create_task(agent.episode.chat(ChatCall(agent.ask(step), agent.tools)))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.gate = gate
    agent.history, agent.exact, agent.exact_before = history, exact, before


PROMPT = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
NEXT = "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("generated", "read"),
    [
        ("hello<|im_end|>", "hello<|im_end|>" + NEXT),
        ("hello", "hello<|im_end|>" + NEXT),  # cut off: the template's end follows
        ("hello<|endoftext|>", "hello<|endoftext|>" + NEXT),  # another end token stands for the template's
        ("<|im_end|>", "<|im_end|>" + NEXT),
        ("", "<|im_end|>" + NEXT),
        ("hello \n<|im_end|>", "hello \n<|im_end|>" + NEXT),
    ],
)
async def test_the_end_of_an_answer_is_there_once(world, generated: str, read: str):
    made = world("chatml", generated, "x<|im_end|>")
    episode = made.book.open()
    first, second = await talk(episode, [user("q")], "more")
    assert (first.continued, second.continued) == (False, True)
    assert [made.part(exchange.prompt) for exchange in made.engine.exchanges] == [PROMPT, PROMPT + read]
    assert first.message["content"] == generated.removesuffix("<|im_end|>").removesuffix("<|endoftext|>")


async def test_a_call_that_ends_with_another_token_than_the_template_writes_is_continued(world):
    call = '{"name": "add", "parameters": {"n":1}}<|eot_id|>'
    made = world("headers", call, "hello<|eot_id|>")
    history = [user("q")]
    (first,) = await talk(episode := made.book.open(), history, tools=[TOOL])
    assert first.finish == "tool_calls"
    history.append({"role": "tool", "tool_call_id": first.message["tool_calls"][0]["id"], "content": "2"})
    (second,) = await talk(episode, history, tools=[TOOL])
    assert second.continued
    read = made.part(made.engine.exchanges[1].prompt)
    assert read.endswith(
        call
        + '<|start_header_id|>ipython<|end_header_id|>\n\n"2"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
    )


THOUGHT = "<think>\nhm\n</think>\n\n"
CALL = '<tool_call>\n{"name":"add","arguments":{"n":1}}\n</tool_call><|im_end|>'


async def test_reasoning_stays_until_a_template_drops_it(world):
    made = world("thinking", THOUGHT + CALL, THOUGHT + "hello<|im_end|>", THOUGHT + "bye<|im_end|>")
    history = [user("q")]
    (first,) = await talk(episode := made.book.open(), history, tools=[TOOL])
    assert first.message["reasoning_content"] == "hm"
    # A client that knows nothing of reasoning.
    history[-1] = {key: value for key, value in first.message.items() if key != "reasoning_content"}
    history.append({"role": "tool", "tool_call_id": first.message["tool_calls"][0]["id"], "content": "2"})
    second, third = await talk(episode, history, "more", tools=[TOOL])
    assert second.continued
    assert not third.continued
    assert made.counts.openings == ["first", "template_not_prefix_stable"]
    read = [made.part(exchange.prompt) for exchange in made.engine.exchanges]
    assert THOUGHT + CALL in read[1]
    assert "hm" not in read[2]
    assert read[2] == made.tokenizer.chat_template.render(canonical(history[:-1]), [TOOL])
    record = episode.close()
    assert [segment.opening for segment in record.segments] == ["first", "template_not_prefix_stable"]
    assert record.segments[1].tokens == made.engine.exchanges[2].tokens


async def test_an_answer_that_is_rendered_as_it_was_generated_is_continued(world):
    # As the last message it would be rendered with empty reasoning, which was never generated.
    made = world("thinking", "hello<|im_end|>", "bye<|im_end|>")
    (_, second) = await talk(made.book.open(), history := [user("q")], "more")
    assert second.continued
    assert made.part(made.engine.exchanges[1].prompt) == made.tokenizer.chat_template.render(canonical(history[:-1]))


async def test_what_a_prompt_has_and_no_history_makes_a_template_unstable(world):
    made = world("thinking", "hello<|im_end|>", "bye<|im_end|>", "bye<|im_end|>")
    (_, second) = await talk(made.book.open(), [user("q")], "more", template={"enable_thinking": False})
    assert not second.continued
    assert made.counts.openings == ["first", "template_not_prefix_stable"]


async def test_tokens_that_follow_the_last_generated_one_are_in_no_record(world):
    made = world("chatml", "hello<|im_end|>")
    episode = made.book.open()
    await talk(episode, [user("q")])
    empty = episode.close()
    assert made.part(empty.segments[0].tokens) == "hello<|im_end|>"
    made = world("chatml", "hello<|im_end|>", "")
    episode = made.book.open()
    await talk(episode, [user("q")], "more")
    assert made.part(episode.close().segments[0].tokens) == "hello<|im_end|>"
    # An answer without a token, as an engine gives it whose first one is cut off.
    made = world("chatml", "", "hello<|im_end|>")
    episode = made.book.open()
    await talk(episode, [user("other")])
    await talk(episode, [user("q")])
    record = episode.close()
    assert [segment.opening for segment in record.segments] == ["new_conversation"]
    assert record.calls == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_text_is_no_part_of_an_answer_and_stays_in_the_record(world, stream: bool):
    made = world("chatml", "hello 12\nObs", "bye<|im_end|>")
    odd = made.engine.answer
    made.engine.answer = lambda call, prompt: (odd(call, prompt)[0], True)
    episode, history, shown = made.book.open(), [user("q")], Shown()
    call = ChatCall(history, stop=["\nObs", "never"], max_tokens=100)
    answer = await episode.chat(call, shown if stream else None)
    assert (answer.message["content"], answer.finish) == ("hello 12", "stop")
    assert not stream or shown.text == "hello 12"
    assert made.engine.exchanges[0].sampling.stop == ("\nObs", "never")
    history += [answer.message, user("more")]
    await episode.chat(ChatCall(history))
    assert made.part(made.engine.exchanges[1].prompt) == PROMPT + "hello 12\nObs<|im_end|>" + NEXT


async def test_tools_that_a_template_does_not_show_are_refused(world):
    made = world("opened", "hello<|im_end|>")
    with pytest.raises(ChatRequestError, match="tools: the model's chat template does not show tools"):
        await made.book.open().chat(ChatCall([user("q")], tools=[TOOL]))


@pytest.mark.parametrize("choice", ["required", "add"])
async def test_a_choice_of_tools_forces_nothing(world, choice: str):
    made = world("chatml", "hello<|im_end|>")
    (answer,) = await talk(made.book.open(), [user("q")], tools=[TOOL], tool_choice=choice)
    assert answer.message == {"role": "assistant", "content": "hello"}
    assert '"add"' in made.part(made.engine.exchanges[0].prompt)


async def test_calls_that_cannot_be_read_are_counted(world):
    made = world("chatml", "<tool_call>{</tool_call><|im_end|>", '<tool_call>{"name": "no"}</tool_call><|im_end|>')
    answers = await talk(made.book.open(), [user("q")], "more", tools=[TOOL])
    assert [answer.finish for answer in answers] == ["stop", "stop"]
    assert answers[0].message["content"] == "<tool_call>{</tool_call>"
    assert made.counts.failures == ["malformed_call", "unknown_tool"]
