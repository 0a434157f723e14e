"""The common part of runs over several hosts: a run file, a Redis host and a gateway host, each with its own address.

Redis speaks TLS only, to clients with a certificate, and knows one user, who may do what learner/queue/acl.py lists. The
gateway speaks TLS only, to clients with a certificate. Weights, checkpoints and metrics are files that every host sees, as
on a volume mounted everywhere.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from learner.cli.run.identities import add_fleet
from learner.cli.run.run_file import Plan, RunFile
from learner.cli.up.model_check import vocabulary_size
from learner.queue.acl import rule
from rollout.config import ClientTlsConfig, WorkerConfig
from rollout.data.demo_model import write_model
from runtime.children import Child
from tests.chaos.account import Account, Id
from tests.chaos.tail import Tail
from tests.deploy.network import Host, Network
from tests.service.certificates import Authority
from tests.tools.refuse import missing

REPOSITORY = Path(__file__).parents[2]
_TICK_S = 0.05
_REDIS_PORT, _GATEWAY_PORT, _STATUS_PORT = 6379, 50_051, 9100


def refusal() -> str | None:
    """Why no site can be made on this machine, besides what network.refusal says; None when it can."""
    return missing("redis-server", "tcpdump")


class Accounts(NamedTuple):
    """What logs, ledger and queue say at the end of a run.

    Attributes:
        account: what the logs alone say.
        imbalances: what a recount of the queue found wrong, or where the ledger and the logs differ.
        waiting: the groups in the queue.
        ledgers: each fleet's, by field.
    """

    account: Account
    imbalances: list[str]
    waiting: set[Id]
    ledgers: list[dict[str, Any]]

    @property
    def lost(self) -> list[Id]:
        """Groups that were acknowledged and are neither trained, nor expired, nor waiting."""
        return sorted(set(self.account.lost) - self.waiting)


class Site:
    """A run on several hosts, under ``directory``. Use it with ``with``; call all methods from the main thread.

    Args:
        directory: made here; the run's own is ``run`` in it.
        overrides: ``section.key=value`` on top of configs/demo.toml, as for `leeway up`.

    Attributes:
        plan: each process's settings; ``worker_config`` adapts the worker's to a fleet.
        run: the run's directory: `leeway ledger` and the like work on it, from a host that reaches Redis.
    """

    def __init__(self, directory: Path, overrides: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.network = Network()
        self.hosts: dict[str, Host] = {}
        self.children: dict[str, Child] = {}
        self.environment = {**os.environ, "LEEWAY_CHILD": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.environment["PYTHONPATH"] = f"{REPOSITORY}:{REPOSITORY / 'proto'}"
        self.authority = Authority(directory / "tls")
        self._overrides = overrides
        self._password = secrets.token_urlsafe(16)
        self.plan: Plan
        self.run = RunFile.read(REPOSITORY / "configs/demo.toml", [f"run.dir={directory / 'run'}"]).directory
        self._learner_rows = Tail(self.run.metrics / "learner.jsonl")
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self.network.__enter__()
        try:
            self._open()
        except BaseException:
            self.network.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.network.close()

    def _open(self) -> None:
        for name in ("redis", "gateway"):
            self.hosts[name] = self.network.host(name)
        run_file = RunFile.load(REPOSITORY / "configs/demo.toml", [*self._settings(), *self._overrides]).absolute()
        run = run_file.directory
        run.create()
        run_file.write(run.settings)
        write_model(run.model, run_file.run.seed)
        identity = run.identity(run_file.run.name)
        vocabulary = vocabulary_size(run.model, run_file.learner.parallel)
        self.plan = run_file.resolve(run_file.queue.url, identity, vocabulary)
        self._start_redis()
        add_fleet(run, "nobody", token=True)  # the file must be there; fleets are added while the gateway runs
        self.plan.gateway.write(run.config / "gateway.json")
        self.start("gateway", "gateway", [sys.executable, "-m", "learner.gateway", str(run.config / "gateway.json")])
        self.until(lambda: '"gateway listening"' in self.log("gateway"), "gateway", 60)

    def _settings(self) -> list[str]:
        """Addresses and certificates of the hosts, as overrides of the run file."""
        redis, gateway = self.hosts["redis"].address, self.hosts["gateway"].address
        server = self.authority.issue("gateway", gateway)
        client = self.authority.issue("queue", "queue.leeway.test")
        fleet = self.authority.issue("fleet", "fleet.leeway.test")
        ca, password = self.authority.certificate, self.directory / "tls/redis.password"
        password.write_text(self._password + "\n")
        values = {
            "run.dir": self.directory / "run",
            "run.status_port": _STATUS_PORT,
            "queue.url": f"rediss://leeway@{redis}:{_REDIS_PORT}/0",
            "queue.password_file": password,
            "queue.tls.ca": ca,
            "queue.tls.certificate": client.certificate,
            "queue.tls.key": client.key,
            "gateway.listen": f"{gateway}:{_GATEWAY_PORT}",
            "gateway.tls.certificate": server.certificate,
            "gateway.tls.key": server.key,
            "gateway.tls.client_ca": ca,
            "rollout.tls.ca": ca,
            "rollout.tls.certificate": fleet.certificate,
            "rollout.tls.key": fleet.key,
        }
        return [f"{key}={value}" for key, value in values.items()]

    def _start_redis(self) -> None:
        host, pair = self.hosts["redis"], self.authority.issue("redis", self.hosts["redis"].address)
        directory = self.run.redis
        lines = [
            f"bind {host.address}",
            "port 0",
            f"tls-port {_REDIS_PORT}",
            f"tls-cert-file {pair.certificate}",
            f"tls-key-file {pair.key}",
            f"tls-ca-cert-file {self.authority.certificate}",
            "tls-auth-clients yes",
            "user default off",
            f"user {' '.join(rule('leeway', self._password))}",
            f"dir {directory}",
            'save ""',
            "appendonly yes",
            "appendfsync always",
        ]
        (directory / "redis.conf").write_text("\n".join(lines) + "\n")
        self.start("redis", "redis", ["redis-server", str(directory / "redis.conf")])
        self.until(lambda: "Ready to accept connections" in self.log("redis"), "Redis", 30)

    def add_fleet(self, fleet: str, token: bool) -> ClientTlsConfig:
        """Registers a fleet by a name in a certificate made for it, and by a token if asked; the token is in its file."""
        san = f"spiffe://leeway.test/fleet/{fleet}"
        drawn = add_fleet(self.run, fleet, sans=[san], token=token)
        if drawn is not None:
            self.run.secret(fleet).write_text(drawn + "\n")
        pair = self.authority.issue(fleet, san)
        return ClientTlsConfig(ca=self.authority.certificate, certificate=pair.certificate, key=pair.key)

    def worker_config(self, fleet: str, tls: ClientTlsConfig, **changes: Any) -> WorkerConfig:
        """Settings of a fleet's worker: those of the run file with the fleet's own credentials."""
        secret = self.run.secret(fleet)
        own = {"name": fleet, "tls": tls, "token_file": secret if secret.exists() else None, **changes}
        return WorkerConfig.parse({**self.plan.workers[0].model_dump(), **own}, fleet)

    def start(self, name: str, host: str, words: Sequence[str], environment: dict[str, str] | None = None) -> Child:
        """Starts a process on a host; its output goes to logs/NAME.log."""
        log = self.run.logs / f"{name}.log"
        self.children[name] = self.hosts[host].start(name, words, log, {**self.environment, **(environment or {})})
        return self.children[name]

    def log(self, name: str) -> str:
        """Output of a process so far."""
        return self.children[name].log.read_text(errors="replace")

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float) -> float:
        """Waits for a condition; returns the seconds it took. Raises AssertionError at the deadline, or if a process ends."""
        started = time.monotonic()
        while not condition():
            ended = [child for child in self.children.values() if child.exit_code() is not None]
            if ended or time.monotonic() - started > timeout_s:
                why = f"{ended[0].name} ended with {ended[0].exit_code()}" if ended else f"not in {timeout_s:.0f} s"
                raise AssertionError(f"no {what}: {why}\n{self.tails()}")
            time.sleep(_TICK_S)
        return time.monotonic() - started

    def learner_rows(self, kind: str) -> list[dict[str, Any]]:
        """All rows of a kind that the learner has written so far."""
        self.rows += self._learner_rows.rows()
        return [row for row in self.rows if row["kind"] == kind]

    def step(self) -> int:
        """Last step of the newest learner."""
        rows = self.learner_rows("step")
        return rows[-1]["step"] if rows else 0

    def end(self, name: str, timeout_s: float) -> int:
        """Sends SIGTERM and returns the exit status. Raises AssertionError if the process has to be killed."""
        child = self.children.pop(name)
        child.terminate()
        if not child.wait(time.monotonic() + timeout_s):
            raise AssertionError(f"{name} did not end within {timeout_s:.0f} s\n{child.tail()}")
        return child.process.returncode

    def ask(self, host: str, words: Sequence[str], timeout_s: float = 60.0) -> Any:
        """Runs a command on a host and reads the JSON it prints. Raises AssertionError when it fails."""
        command = self.hosts[host].command(*words)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=self.environment, check=False
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def accounts(self, workers: Mapping[str, str] | None = None) -> Accounts:
        """Counts everything, on the gateway's host, once fleets and learner have ended. Raises AssertionError.

        Args:
            workers: rollout worker -> its fleet.
        """
        words = ["ledger", str(self.run.root), "--check", "--recount", "--json"]
        answer = self.ask("gateway", [sys.executable, "-m", "learner.cli.app", *words])  # fails at an imbalance
        listed = self.ask(
            "gateway", [sys.executable, "-m", "tests.deploy.waiting", str(self.run.config / "gateway.json")]
        )
        account = Account.read(self.run.root, workers)
        imbalances = [str(one) for one in answer["recount"]["discrepancies"]]
        trained = sum(ledger["trained"] for ledger in answer["ledgers"])
        if trained != len(account.trained):
            imbalances.append(f"the ledger says {trained} trained, the learners' logs {len(account.trained)}")
        return Accounts(account, imbalances, {(fleet, id_) for fleet, id_ in listed}, answer["ledgers"])

    def tails(self) -> str:
        """The last lines of all logs."""
        return "\n".join(
            f"--- {child.name} ({child.exit_code()})\n{child.tail(15)}" for child in self.children.values()
        )
