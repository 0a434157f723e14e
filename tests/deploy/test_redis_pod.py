"""The rendered Redis pods, as processes: their init script, configuration, users and probes do what the manifests mean."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from learner.config import QueueConfig, RedisTlsConfig
from learner.queue import GatewayQueue, LearnerQueue
from runtime.children import Child
from tests.deploy.manifests import MISSING, Object, render
from tests.deploy.policies.queue import passwords
from tests.deploy.workloads import Pod, named, pods
from tests.service.certificates import Authority
from tests.service.servers import free_port, wait_for
from tests.tools.refuse import MissingTool, missing, needs

_SERVER = shutil.which("redis-server")


def _refusal() -> str | None:
    if MISSING or _SERVER is None:
        return MISSING or missing("redis-server")
    version = subprocess.run([_SERVER, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.partition("v=")[2].partition(".")[0])
    return None if major >= 7 else MissingTool(f"redis-server 7 or newer is needed for these users, not {major}")


pytestmark = needs(_refusal())
_PASSWORDS = {"leeway": "of-leeway", "exporter": "of-the-exporter"}


@dataclass(frozen=True)
class Running:
    """A running server of a Redis pod.

    Attributes:
        pod: the pod that it runs.
        root: directory that stands for the root of its paths.
        tls: keyword arguments of a client with a certificate; empty where it speaks plain text.
    """

    pod: Pod
    root: Path
    port: int
    tls: dict[str, object]

    def client(self, **options: object) -> redis.Redis:
        once = {"socket_timeout": 5, "retry": Retry(NoBackoff(), 0)}
        return redis.Redis("127.0.0.1", self.port, **{**once, **self.tls, **options})  # pyright: ignore

    def config(self) -> QueueConfig:
        """Settings of a gateway of the overlay, with paths and port moved."""
        password = self.root / "password"
        password.write_text(_PASSWORDS["leeway"] + "\n")
        tls = self.root / "etc/redis/tls"
        trust = RedisTlsConfig(ca=tls / "ca.crt", certificate=tls / "tls.crt", key=tls / "tls.key")
        scheme = "rediss" if self.tls else "redis"
        return QueueConfig(
            url=f"{scheme}://leeway@127.0.0.1:{self.port}/0",
            password_file=password,
            tls=trust if self.tls else RedisTlsConfig(),
            run="manifests",
        )

    def words(self, words: list[str]) -> list[str]:
        """Words of a command of the pod, with paths and port moved."""
        return [_moved(word, self.root).replace("6379", str(self.port)) for word in words]


@contextlib.contextmanager
def running(overlay: str, root: Path) -> Iterator[Running]:
    """Starts an overlay's Redis: fills volumes, runs the init container and the server, with paths and port moved."""
    objects = render(overlay)
    [pod] = [found for found in pods(objects) if found.component == "redis"]
    port = free_port()
    [users] = [passwords(volume) for volume in pod.spec["volumes"] if volume["name"] == "passwords"]
    for place in ("etc/redis/users", "etc/redis/passwords", "etc/redis/tls", "run/redis", "data"):
        (root / place).mkdir(parents=True)
    for user in users:
        (root / "etc/redis/passwords" / user).write_text(_PASSWORDS[user] + "\n")
    for name, item in named(objects, "ConfigMap").items():
        for key, text in item["data"].items():
            if name.startswith("leeway-redis-users"):
                (root / "etc/redis/users" / key).write_text(text)
            if name.startswith("leeway-redis-server"):
                (root / "etc/redis" / key).write_text(_moved(text, root).replace("6379", str(port)))
    server = Running(pod, root, port, _certificates(root) if overlay != "dev" else {})
    for script in pod.spec["initContainers"]:
        subprocess.run(server.words(script["command"]), check=True, timeout=30)
    container = pod.container("redis")
    child = Child("redis", server.words([*container["command"], *container.get("args", [])]), root / "redis.log")
    try:
        wait_for(lambda: _probed(server, container) or child.exit_code() is not None, lambda: child.tail(10))
        assert child.exit_code() is None, child.tail(10)
        yield server
    finally:
        child.kill()


def _moved(text: str, root: Path) -> str:
    for place in ("/etc/redis", "/run/redis"):
        text = text.replace(place, f"{root}{place}")
    return text.replace("dir /data", f"dir {root}/data")


def _certificates(root: Path) -> dict[str, object]:
    authority, place = Authority(root / "authority"), root / "etc/redis/tls"
    pair = authority.issue("redis", "localhost", "127.0.0.1")
    for source, name in ((pair.certificate, "tls.crt"), (pair.key, "tls.key"), (authority.certificate, "ca.crt")):
        shutil.copy(source, place / name)
    files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "tls.crt", "ssl_keyfile": "tls.key"}
    return {"ssl": True, **{name: str(place / file) for name, file in files.items()}}


def _probed(server: Running, container: Object) -> bool:
    command = server.words(container["readinessProbe"]["exec"]["command"])
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Iterator[Running]:
    with running("dev", tmp_path_factory.mktemp("dev")) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory) -> Iterator[Running]:
    with running("multi-node", tmp_path_factory.mktemp("multi-node")) as server:
        yield server


def _as(server: Running, user: str, password: str) -> contextlib.closing[redis.Redis]:
    return contextlib.closing(server.client(username=user, password=password))


@pytest.mark.parametrize("name", ["plain", "encrypted"])
async def test_gateway_and_learner_can_use_it(name, request):
    server: Running = request.getfixturevalue(name)
    queue = GatewayQueue(server.config(), 100)
    await queue.check()
    await queue.close()
    learner = LearnerQueue.open(server.config())
    learner.begin(0, [])
    assert learner.waiting() == 0
    learner.close()


@pytest.mark.parametrize("name", ["plain", "encrypted"])
def test_who_is_nobody_may_ping(name, request):
    with contextlib.closing(request.getfixturevalue(name).client()) as nobody:
        assert nobody.ping()
        for command in ("GET leeway:x", "INFO", "CONFIG GET dir", "FLUSHALL", "ACL WHOAMI"):
            with pytest.raises(redis.ResponseError, match="permissions"):
                nobody.execute_command(*command.split())


def test_our_user_may_not_rule(plain):
    with _as(plain, "leeway", _PASSWORDS["leeway"]) as ours:
        assert ours.set("leeway:x", "1")
        for command in ("CONFIG GET dir", "FLUSHALL", "KEYS *", "GET other", "SHUTDOWN"):
            with pytest.raises(redis.ResponseError, match="permissions"):
                ours.execute_command(*command.split())
    with _as(plain, "leeway", "guess") as guess, pytest.raises(redis.AuthenticationError):
        guess.ping()


@pytest.mark.parametrize("name", ["plain", "encrypted"])
def test_a_password_is_rotated_without_a_restart(name, request):
    server: Running = request.getfixturevalue(name)
    given = server.root / "etc/redis/passwords"

    def reload(password: str, other: str | None) -> str:
        (given / "leeway").write_text(password + "\n")
        (given / "leeway.other").unlink(missing_ok=True)
        if other is not None:
            (given / "leeway.other").write_text(other)
        command = ["sh", str(server.root / "etc/redis/users.sh"), "reload"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def works(password: str) -> bool:
        with _as(server, "leeway", password) as ours:
            try:
                return bool(ours.ping())
            except redis.AuthenticationError:
                return False

    old = _PASSWORDS["leeway"]
    with _as(server, "leeway", old) as working:
        started = working.info("server")["run_id"]  # pyright: ignore
    for password, other, valid in (
        (old, "new", [True, True]),
        ("new", old, [True, True]),
        ("new", None, [False, True]),
        (old, "new", [True, True]),
        (old, None, [True, False]),
    ):
        assert f"leeway: {1 + (other is not None)} password(s)" in reload(password, other)
        assert [works(old), works("new")] == valid
    with _as(server, "leeway", old) as working:
        assert working.info("server")["run_id"] == started  # pyright: ignore


def test_the_server_takes_over_its_renewed_certificate(encrypted):
    place = encrypted.root / "etc/redis/tls"
    first = ssl.get_server_certificate(("127.0.0.1", encrypted.port))
    renewed = Authority(encrypted.root / "again")
    pair = renewed.issue("redis", "localhost", "127.0.0.1")
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": renewed.certificate}
    before = {name: (place / name).read_bytes() for name in files}
    command = ["sh", str(encrypted.root / "etc/redis/users.sh"), "reload"]
    for content in ({name: path.read_bytes() for name, path in files.items()}, before):
        for name, data in content.items():
            (place / name).write_bytes(data)
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        shown = ssl.get_server_certificate(("127.0.0.1", encrypted.port))
        assert (shown == first) is (content is before)


def test_the_exporter_reads_figures_and_no_key(encrypted):
    with _as(encrypted, "exporter", _PASSWORDS["exporter"]) as exporter:
        assert exporter.info("memory")["maxmemory"] == 48 << 30  # pyright: ignore
        for command in ("GET leeway:x", "SET x 1", "CONFIG SET dir /", "SCAN 0"):
            with pytest.raises(redis.ResponseError, match="permissions"):
                exporter.execute_command(*command.split())


def test_without_a_certificate_there_is_no_connection(encrypted):
    ca = encrypted.tls["ssl_ca_certs"]
    for stranger in ({"ssl_certfile": None, "ssl_keyfile": None, "ssl_ca_certs": ca}, {"ssl": False}):
        with contextlib.closing(encrypted.client(**stranger)) as client, pytest.raises(redis.ConnectionError):
            client.ping()
