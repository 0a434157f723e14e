"""The report's section of rollouts: what it shows, how large it gets, and that what a model wrote stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from learner.cli.report.rollouts_page import rollouts_section
from learner.cli.run.run_directory import RunDirectory
from runtime.rollout_record import RecordedCall, RecordedGroup, RecordedTurn
from tests.tools.recorded import group, response, write_records

HOSTILE = "</pre></details><script>alert(1)</script>'\"><img src=x onerror=alert(1)> \x1b[31m"


class Page(HTMLParser):
    """A parsed section: its tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.opened: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def made(directory: Path, *groups: RecordedGroup) -> str:
    write_records(directory / "rollouts", groups)
    return rollouts_section(RunDirectory.at(directory))


def test_the_first_and_the_last_groups_are_shown_each_once(tmp_path: Path):
    texts = [f"answer {number:03d}" for number in range(30)]
    groups = [group(float(number), [response(text), response("no", 0.0)]) for number, text in enumerate(texts)]
    page = Page(made(tmp_path, *groups))
    shown = [text for text in texts if text in page.text]
    assert shown == [*texts[:6], *texts[-6:]]
    assert all(page.text.count(text) == 1 for text in shown)
    assert page.text.index("The first groups") < page.text.index("The last groups") < page.text.index(texts[-6])
    few = Page(made(tmp_path / "few", *groups[:4]))
    assert "The last groups" not in few.text


def test_turns_calls_results_parts_versions_and_reasons_are_there(tmp_path: Path):
    turns = (
        RecordedTurn(role="assistant", reasoning="hm", calls=(RecordedCall(name="lookup", arguments='{"k": 1}'),)),
        RecordedTurn(role="tool", text="3357", cut=7),
        RecordedTurn(role="assistant", text="It is 3357."),
    )
    played = response("123456", 0.75, 12, turns=turns, parts={"found": 1.0, "short": -0.25})
    failed = response("half", None, 13, unscored="reward_error", message="no judge", masked=1, finish="length")
    page = Page(made(tmp_path, group(responses=[played, failed], withdrawn="other")))
    for part in (
        "0.75", "less the mean +0.000", "found 1", "short -0.25", "6 tokens", "ended by stop",
        "hm", 'lookup({"k": 1})', "3357",
        "7 characters are not recorded", "It is 3357.", "version 12", "version 13", "unscored: reward_error no judge",
        "ended by length", "1 secrets masked", "not submitted: other", "prompt, 4 characters, 3 tokens",
    ):  # fmt: skip
        assert part in page.text, part


def test_long_prompts_are_folded_and_responses_are_whole(tmp_path: Path):
    prompt = (RecordedTurn(role="user", text="long " * 2000),)
    answer = "word " * 2000
    text = made(tmp_path, group(responses=[response(answer), response("b", 0.0)], prompt=prompt))
    assert answer in text
    assert re.search(r"<details><summary>prompt, 10,000 characters", text)
    assert re.search(r"<details open><summary>prompt, 4 characters", made(tmp_path / "b", group()))


def test_what_a_model_or_an_environment_wrote_is_text_never_markup(tmp_path: Path):
    turn = RecordedTurn(
        role=HOSTILE, text=HOSTILE, reasoning=HOSTILE, calls=(RecordedCall(name=HOSTILE, arguments=HOSTILE),)
    )
    said = response("a", 1.0, turns=(turn,), parts={HOSTILE: 1.0}, finish=HOSTILE, unscored=HOSTILE, message=HOSTILE)
    hostile = group(
        responses=[said],
        prompt=(turn,),
        task=HOSTILE,
        prompt_id=HOSTILE,
        withdrawn=HOSTILE,
        worker=HOSTILE,
        group_id=HOSTILE,
    )
    text = made(tmp_path, hostile)
    page = Page(text)
    assert set(page.tags) <= {
        "h2",
        "h3",
        "p",
        "br",
        "style",
        "div",
        "details",
        "summary",
        "span",
        "code",
        "b",
        "pre",
        "i",
    }
    assert page.names <= {"class", "style", "open", "title"}
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "\x1b" not in text


def test_the_section_stays_small_whatever_was_recorded(tmp_path: Path):
    turns = tuple(RecordedTurn(role="assistant", text="<" * 400) for _ in range(50))
    many = response("1", 1.0, turns=turns)
    text = made(tmp_path, *(group(float(number), [many] * 20) for number in range(12)))
    assert len(text) < 3_100_000
    assert "would make this page too large" in text
    fewer = made(tmp_path / "b", group(responses=[response(str(number)) for number in range(40)]))
    assert "24 more responses are not shown" in fewer
    long = made(tmp_path / "c", group(responses=[response("1", turns=turns)]))
    assert "10 more turns are not shown" in long


def test_nothing_recorded_is_no_section(tmp_path: Path):
    assert rollouts_section(RunDirectory.at(tmp_path)) == ""
