"""The report's section of rollouts: the first and the last recorded groups, with turns, tool calls, parts and versions."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

from learner.cli.report.page import section
from learner.cli.run.run_directory import RunDirectory
from learner.cli.view.text import number, printable, without_middle
from runtime.rollout_files import first_records, last_records
from runtime.rollout_record import RecordedGroup, RecordedResponse, RecordedSegment, RecordedTurn, text_of

_GROUPS = 6  # from the beginning of the run, and from its end
_RESPONSES = 16  # shown of a group
_TURNS = 40  # shown of a response
_CHARACTERS = 200_000  # of a group, shared by its texts; longer ones lose their middle
_BYTES = 1_500_000  # of the first groups, and of the last ones: no more are added once there are so many
_OPEN_PROMPT = 600  # characters; a longer prompt is folded, so that responses are at the top

# Colours of versions, oldest of a group first, in turn.
_COLOURS = ("#0891b2", "#7c3aed", "#059669", "#d97706", "#2563eb", "#dc2626")
_STYLE = """<style>
.ro details { padding: 4px 0; } .ro > details { border-bottom: 1px solid var(--line); }
.ro summary { color: var(--text); } .ro pre { margin: 2px 0 10px; white-space: pre-wrap; overflow-wrap: anywhere; }
.ro .in { padding-left: 18px; } .ro .role { color: var(--quiet); font-size: 12px; font-weight: 600; }
.ro .think { color: var(--quiet); font-style: italic; } .ro .call { color: #92400e; }
.ro .bar { display: flex; width: 320px; max-width: 100%; height: 7px; margin: 3px 0; background: #e2e8f0; }
.ro .bar i { display: block; height: 7px; } .ro .chip { margin-left: 8px; white-space: nowrap; }
</style>"""
_NOTE = (
    "Whole groups as the workers of this machine recorded them. A reward less the mean of its group is the advantage before "
    "the objective scales it. Bars show which version generated a response's tokens, in their order; grey ones are the "
    "environment's. leeway rollouts show RUN ID shows a group whole."
)


def rollouts_section(run: RunDirectory) -> str:
    """Returns HTML about the first and the last recorded groups of a run; "" where none is recorded.

    Raises:
        OSError: a file cannot be read.
    """
    first = first_records(run.rollouts, _GROUPS)
    known = {group.group_id for group in first}
    last = [group for group in last_records(run.rollouts, _GROUPS) if group.group_id not in known]
    parts = [
        f"<div class='panel ro'><br><h3>{title}</h3>{_groups(groups)}</div><br>"
        for title, groups in (("The first groups", first), ("The last groups", last))
        if groups
    ]
    return section("Rollouts", _STYLE, *parts, note=_NOTE) if parts else ""


def _groups(groups: Sequence[RecordedGroup]) -> str:
    made, left = [], _BYTES
    for index, group in enumerate(groups):
        text = _group(group)
        left -= len(text.encode())
        if left < 0:
            made.append(f"<p class=note>{len(groups) - index} more groups would make this page too large.</p>")
            break
        made.append(text)
    return "".join(made)


def _group(group: RecordedGroup) -> str:
    colours = {version: _COLOURS[rank % len(_COLOURS)] for rank, version in enumerate(group.versions)}
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(group.time))
    asked = without_middle(text_of(group.prompt[-1:]).removeprefix("user: ").replace("\n", " "), 90)
    rewards = " ".join(f"<span class={_kind(one)}>{number(one.reward)}</span>" for one in group.responses[:_RESPONSES])
    chips = "".join(
        f"<span class=chip style='color:{colour}'>version {version}</span>" for version, colour in colours.items()
    )
    withdrawn = f" <span class=bad>not submitted: {_safe(group.withdrawn)}</span>" if group.withdrawn else ""
    head = f"{when} · {_safe(group.task)} · <code>{_safe(asked)}</code> {rewards}{chips}{withdrawn}"
    shown = [*group.prompt[:_TURNS], *(turn for one in group.responses[:_RESPONSES] for turn in one.turns[:_TURNS])]
    limit = _CHARACTERS // max(1, sum(2 + len(turn.calls) for turn in shown))
    rows = zip(group.responses[:_RESPONSES], group.advantages, strict=False)
    best = max(range(len(group.responses)), key=lambda at: _order(group.responses[at]), default=-1)
    worst = min(range(len(group.responses)), key=lambda at: _order(group.responses[at]), default=-1)
    responses = "".join(
        _response(index, one, advantage, colours, limit, index in (best, worst))
        for index, (one, advantage) in enumerate(rows)
    )
    if (missing := len(group.responses) - _RESPONSES) > 0:
        responses += f"<p class=note>{missing} more responses are not shown.</p>"
    facts = f"group {_safe(group.group_id)}, worker {_safe(group.worker)}, prompt {_safe(group.prompt_id)}"
    inner = f"<p class=note>{facts}</p>{_prompt(group, limit)}{responses}"
    return f"<details><summary>{head}</summary><div class=in>{inner}</div></details>"


def _prompt(group: RecordedGroup, limit: int) -> str:
    length = sum(len(turn.said) for turn in group.prompt)
    open_ = " open" if length <= _OPEN_PROMPT else ""
    turns = "".join(_turn(turn, limit) for turn in group.prompt[:_TURNS]) + _more(group.prompt)
    return (
        f"<details{open_}><summary>prompt, {length:,} characters, {group.prompt_length:,} tokens</summary>"
        f"<div class=in>{turns}</div></details>"
    )


def _response(
    index: int,
    response: RecordedResponse,
    advantage: float | None,
    colours: dict[int, str],
    limit: int,
    is_open: bool,
) -> str:
    facts = [f"<b class={_kind(response)}>{number(response.reward)}</b>"]
    facts += [f"less the mean {advantage:+.3f}"] if advantage is not None else []
    facts += [f"{_safe(name)} {part:g}" for name, part in response.parts.items()]
    facts += [f"{response.generated:,} tokens", f"ended by {_safe(response.finish)}"]
    if response.unscored:
        facts.append(f"<span class=bad>unscored: {_safe(response.unscored)} {_safe(response.message)}</span>")
    if response.masked:
        facts.append(f"{response.masked} secrets masked")
    turns = response.turns
    said = "".join(_turn(turn, limit) for turn in turns[:_TURNS]) + _more(turns)
    bars = "".join(_bar(segment, colours) for segment in response.segments[:_TURNS])
    return (
        f"<details{' open' if is_open else ''}><summary>response {index + 1} · {' · '.join(facts)}</summary>"
        f"<div class=in>{bars}{said}</div></details>"
    )


def _turn(turn: RecordedTurn, limit: int) -> str:
    parts = [f"<div class=role>{_safe(turn.role)}</div>"]
    if turn.reasoning:
        parts.append(f"<pre class=think>{_text(turn.reasoning, limit)}</pre>")
    if turn.text:
        parts.append(f"<pre>{_text(turn.text, limit)}</pre>")
    parts += [f"<pre class=call>→ {_safe(one.name)}({_text(one.arguments, limit)})</pre>" for one in turn.calls]
    if turn.cut:
        parts.append(f"<p class=note>{turn.cut:,} characters are not recorded.</p>")
    return "".join(parts)


def _more(turns: Sequence[RecordedTurn]) -> str:
    missing = len(turns) - _TURNS
    return f"<p class=note>{missing} more turns are not shown.</p>" if missing > 0 else ""


def _bar(segment: RecordedSegment, colours: dict[int, str]) -> str:
    if not segment.length:
        return ""
    at, parts, counts = 0, [], dict.fromkeys(sorted({span.version for span in segment.spans}), 0)
    for span in segment.spans[:_TURNS]:
        parts.append(f"<i style='width:{_percent(span.start - at, segment)}'></i>")
        width = _percent(span.end - span.start, segment)
        parts.append(f"<i style='width:{width};background:{colours[span.version]}'></i>")
        at = span.end
    for span in segment.spans:
        counts[span.version] += span.end - span.start
    legend = ", ".join(f"version {version}: {count:,}" for version, count in counts.items())
    return f"<div class=bar title='{legend}'>{''.join(parts)}</div>"


def _percent(tokens: int, segment: RecordedSegment) -> str:
    return f"{100 * tokens / segment.length:.2f}%"


def _order(response: RecordedResponse) -> float:
    return float("-inf") if response.reward is None else response.reward


def _kind(response: RecordedResponse) -> str:
    return "note" if response.reward is None else "good" if response.reward > 0 else "bad"


def _text(text: str, limit: int) -> str:
    """A turn's text; of a very long one its beginning and its end, which is where an answer mostly stands."""
    return _safe(without_middle(text, limit))


def _safe(text: str) -> str:
    return html.escape(printable(text))
