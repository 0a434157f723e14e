"""Settings: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BeforeValidator, Field, model_validator

from runtime.settings import Settings, SettingsError


class Engine(Settings):
    port: int = Field(default=1, gt=0)
    arguments: list[str] = Field(default=[])


class Example(Settings):
    name: str
    low: int = 0
    high: int = 10
    engine: Engine = Engine()
    spare: Engine | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Example:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}")
        return self


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "example.toml"
    path.write_text('name = "a"\n[engine]\nport = 7\n')
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Example.load(path, overrides)
    return str(caught.value)


def test_overrides_come_on_top_of_the_file_and_keep_their_types(toml: Path):
    loaded = Example.load(toml, ["engine.port=9", 'engine.arguments=["--a", "1=2"]', "name=plain text", "high = 12"])
    assert loaded == Example(name="plain text", high=12, engine=Engine(port=9, arguments=["--a", "1=2"]))


def test_an_override_makes_an_optional_section(toml: Path):
    assert Example.load(toml, ["spare.port=3"]).spare == Engine(port=3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.prot=9", "unknown key 'engine.prot' (value 9); did you mean 'engine.port'?"),
        ("engien.port=9", "unknown key 'engien' (value {'port': 9}); did you mean 'engine'?"),
        ("spare.prt=9", "unknown key 'spare.prt' (value 9); did you mean 'spare.port'?"),
        ("zzz=1", "unknown key 'zzz' (value 1); known here: engine, high, low, name, spare"),
        ("engine.port=soon", "engine.port = 'soon': Input should be a valid integer"),
        ("engine.port=0", "engine.port = 0: Input should be greater than 0"),
        ("low=11", ": low = 11 is above high = 10"),
        ("name.first=1", "--set 'name.first=1': 'name' is a value, not a section"),
        ("engine.port", "--set 'engine.port': expected section.key=value"),
        ("=3", "--set '=3': expected section.key=value"),
    ],
)
def test_a_mistake_is_named_with_key_value_and_remedy(toml: Path, override: str, message: str):
    text = refusal(toml, override)
    assert message in text
    assert "\n" not in text


def test_the_source_is_named(toml: Path):
    assert refusal(toml, "low=x").startswith(f"{toml}: ")


def test_every_mistake_of_a_file_is_named_at_once(toml: Path):
    assert len(refusal(toml, "low=x", "engine.prot=1").splitlines()) == 2


def test_missing_file_missing_key_and_malformed_text(tmp_path: Path):
    assert refusal(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: no such configuration file"
    path = tmp_path / "bad.toml"
    path.write_text("low = 1")
    assert refusal(path) == f"{path}: name is missing: it has no default"
    path.write_text("low = = 1")
    assert refusal(path).startswith(f"{path}: not valid TOML: ")
    (tmp_path / "bad.json").write_text("{")
    assert "not valid JSON" in refusal(tmp_path / "bad.json")


def test_what_is_written_reads_back_the_same(tmp_path: Path):
    settings = Example(name="a", engine=Engine(arguments=["x"]))
    settings.write(tmp_path / "deep" / "example.json")
    assert Example.load(tmp_path / "deep" / "example.json") == settings


class Parts(Settings):
    part: Annotated[
        tuple[Engine, ...],
        BeforeValidator(lambda given: [given] if isinstance(given, dict) else given),
    ] = ()


@pytest.mark.parametrize(
    ("text", "override", "ports"),
    [
        ("[part]\nport = 3", "part.port=4", [4]),
        ("[[part]]\nport = 3", "part.port=4", [4]),  # as run.json has it: the number of an only table may be left out
        ("[[part]]\nport = 3", "part.0.port=4", [4]),
        ("[[part]]\n[[part]]", "part.1.port=4", [1, 4]),
        ("[[part]]\n[[part]]", "part.1={port = 5}", [1, 5]),
    ],
)
def test_an_override_reaches_into_an_array_of_tables(tmp_path: Path, text: str, override: str, ports: list[int]):
    path = tmp_path / "parts.toml"
    path.write_text(text)
    assert [part.port for part in Parts.load(path, [override]).part] == ports


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("[part]", "part.prt=9", "unknown key 'part.prt' (value 9); did you mean 'part.port'?"),
        ("[[part]]\n[[part]]", "part.1.prt=9", "unknown key 'part.1.prt' (value 9); did you mean 'part.1.port'?"),
        (
            "[[part]]\n[[part]]",
            "part.1.zz=9",
            "unknown key 'part.1.zz' (value 9); known here: part.1.arguments, part.1.port",
        ),
        ("[part]", "part.port=0", "part.port = 0: Input should be greater than 0"),
        ("[[part]]\n[[part]]", "part.1.port=0", "part.1.port = 0: Input should be greater than 0"),
        ("[[part]]\n[[part]]", "part.port=2", "'port' stands where one of 2 entries is meant: give its number, 0 to 1"),
        ("[[part]]\n[[part]]", "part.2.port=2", "'2' stands where one of 2 entries is meant: give its number, 0 to 1"),
        ("part = []", "part.0.port=2", "--set 'part.0.port=2': '0' stands in an array without entries"),
    ],
)
def test_a_mistake_in_an_array_of_tables_is_named_as_it_was_written(
    tmp_path: Path, text: str, override: str, message: str
):
    path = tmp_path / "parts.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Parts.load(path, [override])
    assert message in str(caught.value)
