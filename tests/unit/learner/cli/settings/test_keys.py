"""The keys of a model, as the reference shows them; and the reference itself, which must be what the code says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from learner.cli.run.run_file import RunFile
from learner.cli.settings.keys import default_text, tables
from runtime.settings import Settings
from tests.tools import config_reference


class Inner(Settings):
    """What is within.

    A second paragraph.
    """

    grace_s: float = Field(default=1.5, gt=0, le=9, description="how long")
    files: list[Path] = Field(default=[], description="which")


class Outer(Settings):
    """What is around."""

    name: str = Field(description="who")
    size: int | None = Field(default=None, ge=2, lt=512 << 20, description="how many")
    kind: Literal["a", "b"] = Field(default="a", description="which one")
    span: tuple[float, float] = Field(default=(0.5, 1e-6), description="from, to")
    extra: dict[str, float] = Field(default={}, description="more")
    flag_s: bool = Field(default=True, description="whether")
    inner: Inner = Inner()
    perhaps: Inner | None = Field(default=None, description="unset: none")
    many: tuple[Inner, ...] = Field(default=(), description="several")
    named: dict[str, Inner] = Field(default={}, description="by name")


def test_a_key_says_what_it_may_be_and_what_it_is():
    keys = {key.name: key for key in tables(Outer)[0].keys}
    shown = {name: (key.type, key.default, key.unit) for name, key in keys.items()}
    assert shown == {
        "name": ("text", "required", ""),
        "size": ("integer >= 2, < 536870912", "unset", ""),
        "kind": ('"a" or "b"', '"a"', ""),
        "span": ("[number, number]", "[0.5, 1e-06]", ""),
        "extra": ("table of number", "{}", ""),
        "flag_s": ("boolean", "true", ""),
    }
    inner = tables(Outer)[1].keys[0]
    assert (inner.path, inner.type, inner.unit, inner.meaning) == (
        "inner.grace_s", "number > 0, <= 9", "seconds", "how long",
    )  # fmt: skip
    assert tables(Outer)[1].keys[1].type == "list of path"


def test_tables_within_tables():
    found = [(table.name, table.repeated, table.optional, table.meaning) for table in tables(Outer)]
    assert found == [
        ("", False, False, "What is around."),
        ("inner", False, False, "What is within."),
        ("perhaps", False, True, "unset: none"),
        ("many", True, False, "several"),
        ("named.NAME", False, False, "by name"),
    ]


@pytest.mark.parametrize("value", [True, 3, 0.1 + 0.2, 1e-8, 'a "b"\n', ["x", 1], {"a": {"b": "c"}}, Path("/m")])
def test_a_default_is_what_toml_reads(value: object):
    read = tomllib.loads(f"value = {default_text(value)}")["value"]
    assert read == (str(value) if isinstance(value, Path) else value)


def test_every_key_of_the_run_file_is_described():
    missing = [key.path for table in tables(RunFile) for key in table.keys if not key.meaning.strip()]
    assert missing == [], "a setting without a description: give its Field one"
    assert [table.name for table in tables(RunFile) if not table.meaning] == []


@pytest.mark.parametrize(("command", "model", "section"), config_reference.PROCESSES)
def test_every_key_of_a_single_process_is_described(command: str, model: type[Settings], section: str):
    keys = config_reference.own_keys(model, section)
    assert keys
    assert [key.name for key in keys if not key.meaning.strip()] == [], f"of {command}"


def test_a_process_has_the_keys_of_its_section_and_those_that_leeway_up_fills_in():
    (_, gateway, section), *_ = config_reference.PROCESSES
    own = {key.name for key in config_reference.own_keys(gateway, section)}
    assert {"identities_file", "queue.run", "limits.vocab_size", "status.listen"} <= own
    assert not own & {"listen", "limits.reward_range", "queue.timeout_s", "traces.sample"}


def test_the_reference_is_what_the_code_says():
    assert config_reference.FILE.read_text() == config_reference.text(), (
        "run `python -m tests.tools.config_reference --write` and commit"
    )


def test_the_reference_has_every_key_once():
    text = config_reference.text()
    for table in tables(RunFile):
        if table.name:
            assert f"## [{table.name}]\n" in text or f"## [[{table.name}]]\n" in text
    assert text.count("| `spo_alpha` |") == 1
    assert "Its keys are those of `gateway.admission.quota`." in text
