"""Tests of turning a queue's URL and files into arguments of redis-py, and of the ACL that an operator must grant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import learner.queue
from learner.config import QueueConfig, RedisTlsConfig
from learner.queue.acl import COMMANDS
from learner.queue.address import Address, without_password
from learner.queue.errors import QueueError


def address(url: str, **settings: object) -> Address:
    return Address.of(QueueConfig.model_validate({"url": url, "run": "r", **settings}))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("from the file\n")
    return path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://:pw@host:1/0", "redis://***@host:1/0"),
        ("rediss://user:p@w@host/0", "rediss://***@host/0"),
        ("unix://user:pw@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("redis://host:1/0?password=pw&db=2", "redis://host:1/0?password=***&db=2"),
        (
            "redis+sentinel://u:pw@a:1,b:2/name/0?sentinel_password=s",
            "redis+sentinel://***@a:1,b:2/name/0?sentinel_password=***",
        ),
        ("rediss+sentinel://a,b/name", "rediss+sentinel://a,b/name"),
    ],
)
def test_no_form_of_url_shows_its_password(url: str, shown: str):
    assert without_password(url) == shown


def test_a_password_file_takes_the_place_of_the_password(secret: Path):
    made = address("redis://user@host:7/3", password_file=secret)
    assert made.url == "redis://host:7/3"
    assert made.options["credential_provider"].get_credentials() == ("user", "from the file")
    secret.write_text("renewed")
    assert made.options["credential_provider"].get_credentials() == ("user", "renewed")
    nobody = address("redis://host:7/3", password_file=secret)
    assert nobody.options["credential_provider"].get_credentials() == ("renewed",)


async def test_sentinels(secret: Path):
    made = address("redis+sentinel://u%40x:p%3Aw@one:1,[::1]:2,three/main/4?sentinel_password=s&sentinel_user=t")
    assert made.sentinels == (("one", 1), ("::1", 2), ("three", 26379))
    assert (made.service, made.url) == ("main", "")
    assert made.options == {"db": 4, "username": "u@x", "password": "p:w"}
    assert made.sentinel_options == {"username": "t", "password": "s"}
    plain = address("redis+sentinel://one/main", password_file=secret)
    assert plain.options["db"] == 0
    assert await plain.options["credential_provider"].get_credentials_async() == ("from the file",)
    assert plain.sentinel_options == {"username": None, "password": None}


def test_tls(secret: Path):
    tls = RedisTlsConfig(ca=secret, certificate=secret, key=secret)
    files = {"ssl_ca_certs": str(secret), "ssl_certfile": str(secret), "ssl_keyfile": str(secret)}
    expected = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **files}
    assert address("rediss://h/0", tls=tls).options == expected
    behind = address("rediss+sentinel://h/name", tls=tls)
    assert {**behind.options, "ssl": True} == {"db": 0, "username": None, "password": None, "ssl": True, **expected}
    assert behind.sentinel_options == {"username": None, "password": None, "ssl": True, **expected}


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [
        ("http://host", {}, "expected one of redis://, rediss://, unix://, redis"),
        ("redis+sentinel://h/", {}, "expected redis.sentinel://"),
        ("redis+sentinel://h/name/x", {}, "expected redis.sentinel://"),
        ("redis+sentinel://:hidden@h,/name", {}, "'' is not a sentinel's host:port"),
        ("redis+sentinel://h/name?ssl=1", {}, "unknown option 'ssl'"),
        ("redis://h/0", {"tls": {"ca": __file__}}, "not a TLS address"),
        ("rediss://h/0", {"tls": {"ca": "/nonexistent"}}, r"queue\.tls\.ca = /nonexistent: No such file"),
        ("redis://h/0", {"password_file": "/nonexistent"}, r"queue\.password_file = /nonexistent: No such file"),
        ("redis://:hidden@h/0", {"password_file": __file__}, "contains a password, and queue.password_file is set"),
    ],
)
def test_what_cannot_be_an_address(url: str, settings: dict, message: str):
    with pytest.raises(QueueError, match=message) as caught:
        address(url, **settings)
    assert "hidden" not in str(caught.value)


def test_every_command_of_a_script_is_granted():
    directory = Path(learner.queue.__file__).parent / "lua"
    called = {
        name.lower()
        for file in directory.glob("*.lua")
        for name in re.findall(r"redis\.p?call\(\s*'([A-Za-z]+)'", file.read_text())
    }
    assert "xadd" in called
    assert called - set(COMMANDS) == set()
    assert len(set(COMMANDS)) == len(COMMANDS)
