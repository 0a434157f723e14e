"""Tests of Redis behind credentials: a minimal access control list, password files, TLS, sentinels with a failover."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from redis.exceptions import NoPermissionError

from learner.config import QueueConfig, RedisTlsConfig
from learner.queue import EmbeddedRedis, GatewayQueue, LearnerQueue, QueueError
from learner.queue.acl import rule
from learner.queue.embedded import bundled_server
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from tests.service.certificates import Authority
from tests.service.conftest import SERVERS
from tests.service.fleet import RUN, TOKENS, GatewayProcess, eventually, health, until, valid_group
from tests.service.servers import RedisProcess, free_port, wait_for


def learner_cycle(config: QueueConfig, expected: int) -> None:
    """Uses every part of a learner's queue: publish, take, expire, report, commit."""
    learner = LearnerQueue.open(config)
    try:
        learner.begin(0, [])
        assert learner.waiting() == expected
        taken = learner.take(expected - 1, 0, 4)
        learner.report(1, 0, len(taken))
        assert learner.commit(1, [one.ref for one in taken]) == expected - 1
        assert learner.take(1, 99, 4) == []  # far too old: it expires
        assert (learner.running_versions(4), learner.expired()) == ({0}, 1)
    finally:
        learner.close()


def publish(config: QueueConfig) -> None:
    learner = LearnerQueue.open(config)
    learner.begin(0, [])
    learner.publish(pb.Policy(version=learner.next_version(), step=0, epoch=learner.epoch))
    learner.close()


async def whole_cycle(directory: Path, config: QueueConfig) -> pb.Ledger:
    """Lets a fleet, a gateway process and a learner use every part of the queue; returns the fleet's ledger."""
    await asyncio.to_thread(publish, config)
    queue = config.model_dump(mode="json")
    gateway = await GatewayProcess(directory, config.url, queue=queue, admission={"groups_per_step": 8}).ready()
    try:
        async with gateway.connect() as fleet:
            await health(fleet.channel)
            lease = await fleet.lease(4, worker="w", running_version=0)
            assert lease.groups == 4
            good = [valid_group() for _ in range(3)]
            groups = [*good, good[0], valid_group(temperature=-1.0)]
            acks = await fleet.submit(groups, lease_id=lease.lease_id)
            names = [pb.Outcome.Name(ack.outcome).removeprefix("OUTCOME_") for ack in acks]
            assert names == ["ACCEPTED"] * 3 + ["DUPLICATE", "REJECTED"]
            await fleet.lease(1, returned_lease_ids=[lease.lease_id])
            await asyncio.to_thread(learner_cycle, config, 3)
            return await eventually(fleet.ledger, lambda ledger: ledger.received == 5)
    finally:
        gateway.child.kill()


def with_user(url: str, user: str, password: str | None) -> str:
    secret = user if password is None else f"{user}:{password}"
    return f"redis://{secret}@" + url.rpartition("@")[2]


async def test_the_documented_permissions_are_enough(any_redis: EmbeddedRedis, tmp_path: Path):
    with redis.Redis.from_url(any_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", *rule("leeway", "of-the-user"))
        config = QueueConfig(url=with_user(any_redis.url, "leeway", "of-the-user"), run=RUN, timeout_s=5.0)
        ledger = await whole_cycle(tmp_path / "gateway", config)
        assert (ledger.accepted, ledger.trained, ledger.expired, ledger.rejected) == (3, 2, 1, 1)
        refused: Any = admin.execute_command("ACL", "LOG")
        # redis-py tries CLIENT SETINFO, and works without it.
        assert {entry[b"object"].partition(b"|")[0] for entry in refused} <= {b"client"}
        with redis.Redis.from_url(config.url) as leeway:
            for forbidden in (
                ("KEYS", "*"),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("GET", "others"),
                ("ACL", "WHOAMI"),
            ):
                with pytest.raises(NoPermissionError):
                    leeway.execute_command(*forbidden)


async def test_a_missing_permission_says_where_to_look(any_redis: EmbeddedRedis):
    with redis.Redis.from_url(any_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", *rule("leeway", "pw"), "-set")
    queue = GatewayQueue(QueueConfig(url=with_user(any_redis.url, "leeway", "pw"), run=RUN), 0)
    with pytest.raises(QueueError, match=r"learner/queue/acl\.py"):
        await queue.check()
    await queue.close()


async def test_a_password_file_is_read_for_each_connection(any_redis: EmbeddedRedis, tmp_path: Path):
    file = tmp_path / "password"
    file.write_text("first\n")
    with redis.Redis.from_url(any_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", *rule("leeway", "first"))
        config = QueueConfig(url=with_user(any_redis.url, "leeway", None), run=RUN, password_file=file)
        publish(config)
        queue = GatewayQueue(config, 0)
        await queue.check()
        admin.execute_command("ACL", "SETUSER", *rule("leeway", "second"))
        admin.execute_command("CLIENT", "KILL", "USER", "leeway", "SKIPME", "yes")
        for password, refused in (("first", True), ("second", False)):
            file.write_text(password)
            await eventually(lambda: denied(queue), lambda denied, refused=refused: denied == refused)
        await queue.close()


async def test_a_password_is_rotated_while_groups_are_accepted(any_redis: EmbeddedRedis, tmp_path: Path):
    """Old and new are valid for a while; even where a new connection comes before the new password, nothing is lost."""
    file = tmp_path / "password"
    file.write_text("first")
    with redis.Redis.from_url(any_redis.url) as admin:

        def allow(*passwords: str) -> None:
            admin.execute_command("ACL", "SETUSER", *rule("leeway", *passwords))
            admin.execute_command("CLIENT", "KILL", "USER", "leeway", "SKIPME", "yes")  # everyone connects again

        allow("first")
        url = with_user(any_redis.url, "leeway", None)
        config = QueueConfig(url=url, run=RUN, password_file=file, timeout_s=5.0)
        learner = LearnerQueue.open(config)
        learner.begin(0, [])
        learner.publish(pb.Policy(version=learner.next_version(), step=0, epoch=learner.epoch))
        gateway = await GatewayProcess(tmp_path / "gateway", url, queue=config.model_dump(mode="json")).ready()
        try:
            async with SubmitClient(gateway.address, TOKENS["alpha"], timeout_s=5.0) as fleet:
                sent: list[asyncio.Task[pb.Ack]] = []

                async def accepted(count: int) -> None:
                    sent.extend(asyncio.create_task(fleet.submit(valid_group())) for _ in range(count))
                    acks = await asyncio.wait_for(asyncio.gather(*sent), 60)
                    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}

                await accepted(3)
                allow("first", "second")
                await accepted(3)
                file.write_text("second")
                await accepted(3)
                allow("second")
                await accepted(3)
                allow("third")  # in the wrong order: nobody has it yet
                sent.extend(asyncio.create_task(fleet.submit(valid_group())) for _ in range(3))
                waiting = asyncio.create_task(asyncio.to_thread(learner.waiting))
                await until(lambda: fleet.retried > 0)
                file.write_text("third")
                await accepted(0)
                assert await asyncio.wait_for(waiting, 60) <= 15
                assert await asyncio.to_thread(learner.waiting) == len(sent) == 15
                ledger = await fleet.get_ledger()
                assert (ledger.accepted, ledger.rejected, gateway.child.exit_code()) == (15, 0, None)
        finally:
            learner.close()
            gateway.child.kill()


async def denied(queue: GatewayQueue) -> bool:
    try:
        await queue.probe()
    except QueueError as error:
        return "refuses the credentials" in str(error)
    return False


@pytest.fixture(params=SERVERS)
def binary(request: pytest.FixtureRequest) -> str:
    """Path of each server under test."""
    return request.param or str(bundled_server())


@pytest.fixture
def tls_server(tmp_path: Path, binary: str) -> Iterator[tuple[RedisProcess, Authority]]:
    """Starts a server that speaks TLS only, and only to clients with a certificate."""
    authority = Authority(tmp_path / "tls")
    pair = authority.issue("redis", "127.0.0.1")
    port = free_port()
    settings = {
        "port": 0,
        "tls-port": port,
        "tls-cert-file": pair.certificate,
        "tls-key-file": pair.key,
        "tls-ca-cert-file": authority.certificate,
        "requirepass": "of-the-server",
    }
    server = RedisProcess(tmp_path / "redis", binary, settings)
    try:
        ours = authority.issue("leeway", "leeway.test")
        files = {"ssl_certfile": str(ours.certificate), "ssl_keyfile": str(ours.key)}
        wait_for(
            lambda: server.child.exit_code() is not None or "Ready to accept" in server.child.log.read_text(),
            lambda: server.child.tail(10),
        )
        if server.child.exit_code() is not None:
            assert re.search("Bad directive|TLS support", server.child.tail(10))
            pytest.skip("this redis-server is built without TLS")
        server.ready(password="of-the-server", ssl=True, ssl_ca_certs=str(authority.certificate), **files)
        yield server, authority
    finally:
        server.child.kill()


async def test_redis_over_tls(tls_server: tuple[RedisProcess, Authority], tmp_path: Path):
    server, authority = tls_server
    pair = authority.issue("queue", "queue.test")
    tls = RedisTlsConfig(ca=authority.certificate, certificate=pair.certificate, key=pair.key)
    url = f"rediss://:of-the-server@127.0.0.1:{server.port}/0"
    config = QueueConfig(url=url, run=RUN, timeout_s=5.0, tls=tls)
    ledger = await whole_cycle(tmp_path / "gateway", config)
    assert (ledger.accepted, ledger.trained) == (3, 2)
    stranger = Authority(tmp_path / "stranger").certificate
    for refused in (RedisTlsConfig(ca=authority.certificate), tls.model_copy(update={"ca": stranger})):
        queue = GatewayQueue(config.model_copy(update={"tls": refused}), 0)
        with pytest.raises(QueueError):
            await queue.check()
        await queue.close()


class Sentinels:
    """A server, its replica, and three sentinels that watch them; passwords on all."""

    def __init__(self, directory: Path, binary: str) -> None:
        self._directory = directory
        self._binary = binary
        self.servers = [self._server("one", {}), self._server("two", {"replica-announce-ip": "127.0.0.1"})]
        self.servers[1].client(password="pw").execute_command("REPLICAOF", "127.0.0.1", self.servers[0].port)
        self.sentinels = [self._sentinel(f"sentinel-{number}") for number in range(3)]
        for sentinel in self.sentinels:
            sentinel.ready(password="sentinel-pw")
        wait_for(self._complete, self._said)

    @property
    def url(self) -> str:
        """Returns the sentinels' URL for QueueConfig."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:pw@{hosts}/mymaster/0?sentinel_password=sentinel-pw"

    def close(self) -> None:
        for process in (*self.sentinels, *self.servers):
            process.child.kill()

    def _server(self, name: str, settings: dict[str, Any]) -> RedisProcess:
        values = {
            "port": free_port(),
            "requirepass": "pw",
            "masterauth": "pw",
            "repl-diskless-sync-delay": 0,
            **settings,
        }
        return RedisProcess(self._directory / name, self._binary, values).ready(password="pw")

    def _sentinel(self, name: str) -> RedisProcess:
        port = free_port()
        settings = {
            "port": port,
            "requirepass": "sentinel-pw",
            "sentinel monitor mymaster": f"127.0.0.1 {self.servers[0].port} 2",
            "sentinel auth-pass mymaster": "pw",
            "sentinel down-after-milliseconds mymaster": 1000,
            "sentinel failover-timeout mymaster": 5000,
            "sentinel sentinel-pass": "sentinel-pw",
        }
        return RedisProcess(self._directory / name, self._binary, settings, sentinel=True)

    def _complete(self) -> bool:
        """Whether every sentinel knows the replica and the two others."""
        for sentinel in self.sentinels:
            with contextlib.closing(sentinel.client(password="sentinel-pw", decode_responses=True)) as client:
                state: Any = client.execute_command("SENTINEL", "MASTER", "mymaster")
                fields = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
                if int(fields["num-slaves"]) != 1 or int(fields["num-other-sentinels"]) != 2:
                    return False
        return True

    def _said(self) -> str:
        return "\n".join(process.child.tail(5) for process in (*self.sentinels, *self.servers))


@pytest.fixture
def sentinels(tmp_path: Path, binary: str) -> Iterator[Sentinels]:
    made = Sentinels(tmp_path / "sentinels", binary)
    yield made
    made.close()


async def test_a_failover_is_an_outage_that_ends(sentinels: Sentinels, tmp_path: Path):
    config = QueueConfig(url=sentinels.url, run=RUN, timeout_s=2.0)
    await asyncio.to_thread(publish, config)
    replica = sentinels.servers[1].client(password="pw")
    await asyncio.to_thread(wait_for, lambda: replica.exists(f"leeway:{{{RUN}}}:versions"), sentinels._said)
    replica.close()
    with structlog.testing.capture_logs() as lines:
        learner = await asyncio.to_thread(LearnerQueue.open, config)
    assert any("min-replicas-to-write 1" in line["event"] for line in lines)
    await asyncio.to_thread(learner.begin, 0, [])
    gateway = await GatewayProcess(tmp_path / "gateway", config.url).ready()
    try:
        async with gateway.connect() as fleet:
            await health(fleet.channel)
            assert await fleet.outcomes([valid_group()]) == ["ACCEPTED"]
            sentinels.servers[0].child.kill()
            assert await fleet.outcomes([valid_group()]) == ["RETRY"]
            await eventually(lambda: fleet.outcomes([valid_group()]), lambda outcomes: outcomes == ["ACCEPTED"], 60.0)
            await health(fleet.channel)
        taken = await asyncio.to_thread(learner.take, 9, 0, 4)
        assert taken
        assert await asyncio.to_thread(learner.commit, 1, [one.ref for one in taken]) == len(taken)
    finally:
        gateway.child.kill()
        learner.close()
