"""Tokens in files that are replaced while a fleet's client runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import AuthError, Credentials, SubmitClient, new_group_id
from runtime.settings import SettingsError
from tests.tools.fleet_peers import ScriptedGateway, until


class KnowingGateway(ScriptedGateway):
    """Knows the tokens in ``valid``, and notes what each call presents."""

    def __init__(self) -> None:
        super().__init__()
        self.valid = {"old"}
        self.presented: list[str] = []

    async def _authenticate(self, context: Any) -> None:
        self.presented.append(dict(context.invocation_metadata())["authorization"].removeprefix("Bearer "))
        if self.presented[-1] not in self.valid:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")


@pytest.fixture
async def gateway() -> AsyncIterator[KnowingGateway]:
    made = await KnowingGateway().start()
    yield made
    await made.stop()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("old\n")
    return file


def group() -> pb.Group:
    return pb.Group(group_id=new_group_id(), prompt_id="p")


def replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(file)


def remove(file: Path) -> None:
    file.unlink()


async def test_the_next_call_presents_the_token_that_the_file_has_now(gateway: KnowingGateway, token: Path):
    gateway.valid = {"old", "new"}
    async with SubmitClient(gateway.address, Credentials(token_file=token)) as client:
        await client.lease(1)
        replace(token, "new")
        await client.lease(1)
    assert gateway.presented == ["old", "new"]


async def test_a_refused_call_is_made_once_more_with_the_token_that_the_file_has_by_then(
    gateway: KnowingGateway, token: Path
):
    async with SubmitClient(gateway.address, Credentials(token_file=token)) as client:
        gateway.decide = lambda _: None  # the stream waits, with the old token
        waiting = asyncio.create_task(client.submit(group()))
        await until(lambda: gateway.unacked == 1, "group")
        replace(token, "new")
        gateway.valid = {"new"}
        gateway.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_ACCEPTED)
        await gateway.stop()
        await gateway.start()
        assert (await asyncio.wait_for(waiting, 60)).outcome == pb.OUTCOME_ACCEPTED
        replace(token, "other")
        with pytest.raises(AuthError, match="unknown token"):
            await client.lease(1)
    assert gateway.presented == ["old", "new", "other"]


async def test_a_stream_that_is_refused_opens_again_with_the_token_that_came_meanwhile(
    gateway: KnowingGateway, token: Path
):
    class Late(KnowingGateway):
        async def _authenticate(self, context: Any) -> None:
            if not self.presented:
                replace(token, "new")  # while the call with the old one is on its way
            await super()._authenticate(context)

    for call in (lambda client: client.submit(group()), lambda client: client.lease(1)):
        replace(token, "old")
        late = await Late().start()
        late.valid = {"new"}
        async with SubmitClient(late.address, Credentials(token_file=token)) as client:
            await asyncio.wait_for(call(client), 60)
        await late.stop()
        assert late.presented == ["old", "new"]


async def test_a_token_that_stays_refused_ends_the_call_at_once(gateway: KnowingGateway, token: Path):
    gateway.valid = set()
    async with SubmitClient(gateway.address, Credentials(token_file=token)) as client:
        for call in (client.lease(1), client.submit(group())):
            with pytest.raises(AuthError, match="unknown token"):
                await asyncio.wait_for(call, 60)
    assert gateway.presented == ["old", "old"]


@pytest.mark.parametrize("text", ["", "two words", "gé"])
async def test_a_damaged_file_is_logged_once_and_the_old_token_stays(
    gateway: KnowingGateway, token: Path, text: str, caplog: pytest.LogCaptureFixture
):
    async with SubmitClient(gateway.address, Credentials(token_file=token)) as client:
        replace(token, text)
        for _ in range(3):
            await client.lease(1)
        remove(token)
        await client.lease(1)
    assert gateway.presented == ["old"] * 4
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2  # one for each state of the file
    assert all(f"token_file = {token}: " in error for error in errors)


def test_at_the_start_a_damaged_file_is_an_error(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"token_file = .*nowhere: No such file"):
        Credentials(token_file=tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="a token was given too; give one of them"):
        Credentials("word", token_file=tmp_path / "nowhere")
