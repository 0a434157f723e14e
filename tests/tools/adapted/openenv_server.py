"""A server of openenv-core with one environment, run by its own virtualenv: guess a number; prints its port, serves on it."""
# pyright: reportMissingImports=false

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field


class Guess(Action):
    """What is guessed."""

    number: int = Field(ge=0, le=9)


class Hint(Observation):
    """What is said about the guess."""

    text: str


class Guessing(Environment):
    """The number is the seed; each wrong guess costs 0.25."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Hint:
        """Begins."""
        self._number = seed or 0
        return Hint(text="Guess my number.")

    def step(self, action: Guess, timeout_s: float | None = None, **_: Any) -> Hint:
        """Says whether the guess is right."""
        if action.number == self._number:
            return Hint(text="Right.", reward=1.0, done=True)
        return Hint(text="Higher." if action.number < self._number else "Lower.", reward=-0.25)

    @property
    def state(self) -> State:
        """Nothing that anybody asks for."""
        return State()


def main() -> None:
    """Serves until it is killed."""
    app = create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=8)
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
