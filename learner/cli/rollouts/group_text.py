"""Renders recorded groups for a terminal: one line each, or one whole with its turns, parts and versions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from learner.cli.rollouts.recorded_groups import called
from learner.cli.view.text import number, printable, without_middle
from runtime.rollout_record import (
    RecordedGroup,
    RecordedResponse,
    RecordedSegment,
    RecordedTurn,
    text_of,
    unpack_ids,
)

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")  # of versions, oldest of a group first, in turn
_BAR = 48  # characters of a bar of versions
_PROMPT = 2000  # characters of a prompt's turn that are shown unless all is asked for
_ROLES = {"assistant": "bold green", "tool": "bold yellow", "environment": "bold yellow", "user": "bold blue"}
_LEFT_OUT = {
    "masked": "its token ids are left out: a secret was masked",
    "size": "its token ids are left out: the group would be over record.group_bytes",
    "off": "its token ids are left out: record.tokens = false",
}


def line_of(group: RecordedGroup, width: int) -> Text:
    """Renders a group on one line: time, id, task, versions, rewards, lengths, and the beginning of a response."""
    when = time.strftime("%H:%M:%S", time.localtime(group.time))
    text = Text(f"{when} {called(group)} ", style="dim")
    text.append(f"{printable(group.task)} {without_middle(_flat(group.prompt_id), 24)} ", style="")
    text.append(f"v{_span_of(group.versions)} ", style="cyan")
    for response in group.responses:
        style = "yellow" if response.reward is None else "green" if response.reward > 0 else "red"
        text.append(f"{number(response.reward)} ", style=style)
    lengths = [one.generated for one in group.responses] or [0]
    text.append(f"{min(lengths)}-{max(lengths)} tokens ", style="dim")
    if group.withdrawn:
        text.append(f"withdrawn: {printable(group.withdrawn)} ", style="yellow")
    if room := max(0, width - text.cell_len - 1):
        best = max(
            group.responses, key=lambda one: one.reward if one.reward is not None else float("-inf"), default=None
        )
        text.append(without_middle(_flat(text_of(best.turns)) if best else "", room))
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def whole(group: RecordedGroup, only: int | None, tokens: bool, full: bool) -> Iterator[RenderableType]:
    """Renders a group: what was asked, then every response, one after the other.

    Args:
        group: the group.
        only: number of the one response to show, from 1; None: all.
        tokens: token ids are shown too, in the colours of their versions.
        full: long prompts are shown whole.
    """
    colours = {version: _COLOURS[rank % len(_COLOURS)] for rank, version in enumerate(group.versions)}
    yield Rule(f"group {group.group_id}", align="left")
    yield _head(group)
    yield Text("prompt", style="bold") + Text(
        f"  {printable(group.prompt_id)}, {group.prompt_length} tokens", style="dim"
    )
    for turn in group.prompt:
        yield from _turn(turn, None if full else _PROMPT)
    if tokens and group.prompt_tokens is not None:
        yield Padding(Text(" ".join(map(str, unpack_ids(group.prompt_tokens))), style="dim"), (0, 0, 0, 2))
    for index, (response, advantage) in enumerate(zip(group.responses, group.advantages, strict=True), 1):
        if only is None or index == only:
            yield from _response(f"response {index} of {len(group.responses)}", response, advantage, colours, tokens)


def _head(group: RecordedGroup) -> Text:
    sampling = group.sampling
    drawn = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
    }
    facts = [
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(group.time)),
        f"worker {group.worker}",
        f"task {group.task}",
        *(f"{name} {value:g}" for name, value in drawn.items() if value is not None),
        f"at most {sampling.max_new_tokens} tokens",
        *([f"not submitted: {group.withdrawn}"] if group.withdrawn else []),
        *([f"{group.masked} secrets of the prompt masked"] if group.masked else []),
    ]
    return Text(printable(" · ".join(facts)), style="dim")


def _response(
    title: str, response: RecordedResponse, advantage: float | None, colours: dict[int, str], tokens: bool
) -> Iterator[RenderableType]:
    yield Rule(title, align="left", style="dim")
    good = response.reward is not None and response.reward > 0
    text = Text(f"reward {number(response.reward)}", style="bold green" if good else "bold red")
    if advantage is not None:
        text.append(f"  reward - mean {advantage:+.3f}", style="")
    for name, part in response.parts.items():
        text.append(f"  {printable(name)} {part:g}", style="not bold default")
    text.append(f"  {response.generated:,} tokens, ended by {printable(response.finish)}", style="not bold default")
    yield text
    if response.unscored:
        why = f"unscored: {response.unscored}" + (f": {response.message}" if response.message else "")
        yield Text(printable(why), style="yellow")
    if response.left_out:
        yield Text(_LEFT_OUT[response.left_out], style="dim")
    for number_, segment in enumerate(response.segments, 1):
        if len(response.segments) > 1:
            yield Text(f"segment {number_}, after {segment.context_length} tokens of context", style="dim")
        for turn in segment.turns:
            yield from _turn(turn, None)
        yield _bar(segment, colours)
        if tokens and segment.tokens is not None:
            yield Padding(_ids(segment, colours), (0, 0, 0, 2))


def _turn(turn: RecordedTurn, limit: int | None) -> Iterator[RenderableType]:
    yield Text(f"  {printable(turn.role)}", style=_ROLES.get(turn.role, "bold"))
    said: list[RenderableType] = []
    if turn.reasoning:
        said.append(Text(printable(turn.reasoning), style="dim italic"))
    if turn.text:
        shown = printable(turn.text)
        cut = limit is not None and len(shown) > limit
        said.append(Text(without_middle(shown, limit) if cut and limit else shown))
        if cut:
            said.append(Text(f"{len(shown):,} characters; --full shows all", style="dim"))
    said += [Text(printable(f"→ {call.name}({call.arguments})"), style="yellow") for call in turn.calls]
    if turn.cut:
        said.append(Text(f"{turn.cut:,} characters are not recorded (record.group_bytes)", style="dim"))
    yield Padding(Group(*said), (0, 0, 0, 4))


def _bar(segment: RecordedSegment, colours: dict[int, str]) -> Text:
    """Draws how much of a segment each version made, and how much the environment, in the order of the tokens."""
    text, counts = Text("  "), dict.fromkeys(sorted({span.version for span in segment.spans}), 0)
    if not segment.length:
        return text
    at = 0
    for span in segment.spans:
        text.append("░" * _share(span.start - at, segment.length), style="dim")
        text.append("█" * max(1, _share(span.end - span.start, segment.length)), style=colours[span.version])
        counts[span.version] += span.end - span.start
        at = span.end
    for version, count in counts.items():
        text.append(f"  version {version}: {count:,}", style=colours[version])
    if (read := segment.length - sum(counts.values())) > 0:
        text.append(f"  environment: {read:,}", style="dim")
    return text


def _share(tokens: int, length: int) -> int:
    return round(_BAR * tokens / length)


def _ids(segment: RecordedSegment, colours: dict[int, str]) -> Text:
    ids = unpack_ids(segment.tokens or "")
    text, at = Text(), 0
    for span in segment.spans:
        text.append(_numbers(ids[at : span.start]), style="dim")
        text.append(_numbers(ids[span.start : span.end]), style=colours[span.version])
        at = span.end
    return text.append(_numbers(ids[at:]), style="dim")


def _numbers(ids: Sequence[int]) -> str:
    return "".join(f"{one} " for one in ids)


def _flat(text: str) -> str:
    return printable(text[:400]).replace("\n", "⏎").replace("\t", " ")


def _span_of(versions: Sequence[int]) -> str:
    if not versions:
        return "-"
    return str(versions[0]) if len(versions) == 1 else f"{versions[0]}-{versions[-1]}"
