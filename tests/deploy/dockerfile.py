"""Reads the Dockerfiles of this repository: enough of the format for them, and an error for the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
_KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER", "WORKDIR"}


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile, continuations joined: ``COPY``, ``--from=build /opt /opt``."""

    word: str
    rest: str

    def exec_form(self) -> list[str]:
        """Words of the exec form ``["a", "b"]``. Raises ValueError for a shell line, which would make a shell pid 1."""
        words = json.loads(self.rest)
        if not isinstance(words, list):
            raise ValueError(f"{self.word} {self.rest}: expected the exec form")
        return words


@dataclass(frozen=True)
class Stage:
    """The instructions between two FROM lines. ``base`` has its build arguments filled in."""

    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.word == word]

    def last(self, word: str) -> Instruction:
        """Returns the last instruction of a kind. Raises AssertionError when there is none."""
        found = self.all(word)
        assert found, f"no {word}"
        return found[-1]

    def pairs(self, word: str) -> dict[str, str]:
        """Key and value of every ``a=b c="d"`` in LABEL or ENV instructions."""
        text = " ".join(instruction.rest for instruction in self.all(word))
        return {name: value.strip('"') for name, value in re.findall(r'([\w.-]+)=("[^"]*"|\S+)', text)}


@dataclass(frozen=True)
class Dockerfile:
    """The stages of one image; the last is what runs."""

    image: str
    stages: list[Stage]

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    @property
    def command(self) -> list[str]:
        """ENTRYPOINT and CMD: what a container runs when its pod names no command."""
        return self.entrypoint + self.arguments

    @property
    def entrypoint(self) -> list[str]:
        return self.final.last("ENTRYPOINT").exec_form()

    @property
    def arguments(self) -> list[str]:
        return self.final.last("CMD").exec_form()


def images() -> list[str]:
    """Names of the images that can be built."""
    return sorted(path.parent.name for path in DOCKER.glob("*/Dockerfile"))


def read(image: str) -> Dockerfile:
    """Parses ``deploy/docker/IMAGE/Dockerfile``. Raises ValueError for what this reader does not know."""
    return parse(image, (DOCKER / image / "Dockerfile").read_text())


def parse(image: str, text: str) -> Dockerfile:
    """Parses the text of a Dockerfile. Raises ValueError: see ``read``."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(text):
        if instruction.word == "FROM":
            base, _, name = instruction.rest.partition(" AS ")
            stages.append(Stage(re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base), name or None))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif instruction.word == "ARG":
            name, _, value = instruction.rest.partition("=")
            arguments[name] = value
    return Dockerfile(image, stages)


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word and word not in _KNOWN:
            raise ValueError(f"unknown instruction: {line}")
        if word:
            yield Instruction(word, " ".join(rest.split()))
