"""`python -m tests.deploy.hosts --cut 60`: the demo on five hosts over mTLS, while one fleet's link is cut and healed.

A Redis host, a gateway host, a learner host and two fleet hosts, each a rollout worker with an SGLang server of its own;
tokyo shows a token and a certificate, oslo a certificate alone. Every packet on tokyo's link is recorded. At the end:
does the ledger balance, counted again from every entry; is each group whose acceptance a fleet saw trained once, expired or
waiting, by the logs and the queue itself; and was anything on that link not TLS?

`--sglang 1` or `0` puts tests/deploy/engine.py in the place of oslo's SGLang server, or of both: all the rest is the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learner.cli.run.run_history import read_samples
from rollout.client import encode_ids
from rollout.data.demonstrations import write_demonstrations
from rollout.data.tokenizer import Tokenizer
from tests.chaos.account import Account, Id
from tests.chaos.tail import Tail
from tests.deploy import network
from tests.deploy.site import Site, refusal
from tests.deploy.wire import Stream, faults, leaks, read

FLEETS: tuple[str, str] = ("tokyo", "oslo")  # the first one's link is cut and recorded
_ENGINE_PORT = 30_000
_START_S = 600.0  # of a server, on a machine that does much else
_SHOWN = 200  # group ids and prompts that are looked for on the wire


@dataclass(frozen=True)
class Show:
    """Options of a run over five hosts.

    Attributes:
        cut_s: how long the link is cut.
        sglang: how many of the fleets, from the first on, have an SGLang server; the others have tests/deploy/engine.py.
        steps: optimizer steps before the cut, and again after it.
        settings: ``section.key=value`` of the run.
        warm: whether to begin with the demo's supervised start, without which hardly a response is right.
    """

    cut_s: float
    sglang: int
    steps: int
    settings: tuple[str, ...] = ()
    warm: bool = True


@dataclass
class Result:
    """Outcome of a run over five hosts. Times are in seconds.

    Attributes:
        during: groups or steps, by name, while the link was cut.
        back_s: from the healing to the first new ack that the fleet saw.
        lost: groups that were acknowledged and are neither trained, nor expired, nor in the queue.
        imbalances: what `leeway ledger --recount` found wrong; empty when all balances.
        wire: streams on the link that were not TLS, with the reason.
        leaked: names of secrets seen there in clear.
    """

    during: dict[str, int] = field(default_factory=dict)
    back_s: float = 0.0
    lost: list[Id] = field(default_factory=list)
    doubled: list[Id] = field(default_factory=list)
    imbalances: list[str] = field(default_factory=list)
    ledgers: list[dict[str, Any]] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    streams: list[Stream] = field(default_factory=list)
    wire: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, unbalanced or seen in clear."""
        return not (self.lost or self.doubled or self.imbalances or self.wire or self.leaked)


class Hosts:
    """A run over five hosts."""

    def __init__(self, site: Site, show: Show) -> None:
        self._site = site
        self._show = show
        self._result = Result()
        self._acked = {fleet: Tail(site.run.state / f"{fleet}.acked.jsonl") for fleet in FLEETS}
        self._counts: dict[str, int] = dict.fromkeys(FLEETS, 0)

    def run(self) -> Result:
        """Runs to the cut, through it and to the end. Raises AssertionError when something does not happen in time."""
        site, show, cut = self._site, self._show, FLEETS[0]
        for name in ("learner", *FLEETS):
            site.hosts[name] = site.network.host(name)
        capture = site.hosts[cut].capture(site.directory / f"{cut}.pcap")
        for index, fleet in enumerate(FLEETS):
            self.start_fleet(fleet, index)
        self.start_learner()
        site.until(lambda: min(self._poll().values()) > 0, "acks for both fleets", _START_S)
        site.until(lambda: site.step() >= show.steps, f"{show.steps} steps", 180)
        self._cut(cut)
        after = site.step() + show.steps
        site.until(lambda: site.step() >= after, f"{show.steps} steps after the cut", 180)
        self._finish()
        self._judge_wire(cut, capture.finish())
        return self._result

    def start_fleet(self, fleet: str, index: int) -> None:
        """Starts a fleet's worker on its host, and its engine; the first fleet shows a token too."""
        site = self._site
        tls = site.add_fleet(fleet, token=index == 0)
        engine: dict[str, Any] = site.plan.workers[0].engine.model_dump() | {
            "base_port": _ENGINE_PORT,
            "start_timeout_s": _START_S,
        }
        if index >= self._show.sglang:
            site.start(f"{fleet}-engine", fleet, [sys.executable, "-m", "tests.deploy.engine", str(_ENGINE_PORT)])
            engine["urls"] = [f"http://127.0.0.1:{_ENGINE_PORT}"]
        config = site.worker_config(fleet, tls, engine=engine, seed=index)
        config.write(site.run.config / f"{fleet}.json")
        site.start(fleet, fleet, [sys.executable, "-m", "rollout", str(site.run.config / f"{fleet}.json")])

    def start_learner(self) -> None:
        """Starts the learner on its host."""
        site, learner = self._site, self._site.plan.learner
        if self._show.warm and learner.warmup is not None:
            write_demonstrations(site.plan.workers[0], 20_000, learner.seed, learner.warmup.demonstrations)
        else:
            learner = learner.model_copy(update={"warmup": None})
        file, ranks = site.run.config / "learner.json", learner.parallel.ranks
        learner.write(file)
        torchrun = ("-m", "learner.node", "--nnodes=1", f"--nproc-per-node={ranks}", "--max-restarts=0")
        address = ("--master-addr=127.0.0.1", "--master-port=29400")
        site.start("learner", "learner", [sys.executable, *torchrun, *address, "-m", "learner", str(file)])

    def _cut(self, fleet: str) -> None:
        site, result = self._site, self._result
        before = self._poll() | {"steps": site.step(), "generated": self._generated(fleet)}
        site.hosts[fleet].cut()
        end = time.monotonic() + self._show.cut_s
        site.until(lambda: time.monotonic() > end, "end of the cut", self._show.cut_s + 10)
        now = self._poll() | {"steps": site.step(), "generated": self._generated(fleet)}
        site.hosts[fleet].heal()
        result.during = {name: now[name] - before[name] for name in now}
        result.back_s = site.until(lambda: self._poll()[fleet] > now[fleet], "acks after the cut", 120)

    def _finish(self) -> None:
        """Stops the fleets, then the learner, which commits; counts everything; stops the gateway."""
        site, result = self._site, self._result
        for fleet in FLEETS:
            site.end(fleet, 30)
        site.end("learner", 60)  # torchrun's exit status says nothing here: it is 1 after every SIGTERM
        saved = site.learner_rows("checkpoint")
        if not saved or saved[-1]["step"] != site.step():
            raise AssertionError(f"the learner ended at step {site.step()} without a checkpoint\n{site.tails()}")
        accounts = site.accounts({fleet: fleet for fleet in FLEETS})
        result.account, result.imbalances, result.lost = accounts.account, accounts.imbalances, accounts.lost
        result.doubled = result.account.doubled
        result.ledgers = [ledger for ledger in accounts.ledgers if ledger["fleet"] in FLEETS]
        site.end("gateway", 30)
        self._describe()

    def _judge_wire(self, fleet: str, capture: Path) -> None:
        site, result = self._site, self._result
        result.streams = [stream for stream in read(capture) if stream.data]
        gateway = site.hosts["gateway"].address
        strangers = [stream for stream in result.streams if gateway not in (stream.source[0], stream.target[0])]
        result.wire = [fault for stream in result.streams for fault in faults(stream)]
        result.wire += [f"a stream between {stream.source} and {stream.target}" for stream in strangers]
        result.leaked = leaks(result.streams, self._secrets(fleet))
        sent = sum(len(stream.data) for stream in result.streams if stream.target[0] == gateway)
        received = sum(len(stream.data) for stream in result.streams) - sent
        opened = sum(stream.target[0] == gateway for stream in result.streams)
        verdict = "TLS only" if not (result.wire or result.leaked) else f"NOT TLS ONLY: {result.wire + result.leaked}"
        result.lines.append(
            f"{fleet}'s link: {opened} connections, {sent:,} bytes to the gateway, {received:,} from it; {verdict}"
        )

    def _secrets(self, fleet: str) -> list[tuple[str, bytes]]:
        """What must not be seen on the fleet's link, by name: its identity, the run's name, and what it sent."""
        site = self._site
        tokenizer = Tokenizer(site.run.model)
        ids = [row["group_id"] for row in Tail(site.run.state / f"{fleet}.acked.jsonl").rows()]
        prompts = {row["prompt"] for row in read_samples(site.run.rollouts)[:_SHOWN]}
        return [
            ("token", site.run.secret(fleet).read_text().strip().encode()),
            ("run", site.plan.gateway.queue.run.encode()),
            ("weights", str(site.run.weights).encode()),
            *(("group id", id_.encode()) for id_ in ids[:_SHOWN]),
            *(("prompt tokens", encode_ids(tokenizer.prompt_ids(prompt))) for prompt in prompts),
        ]

    def _describe(self) -> None:
        site, result = self._site, self._result
        rewards = [row["reward"] for row in site.learner_rows("step")]
        what = {
            "redis": "TLS, one ACL user, every client with a certificate",
            "gateway": f"mTLS; {sum(ledger['received'] for ledger in result.ledgers):,} groups received",
            "learner": f"{len(rewards)} steps, reward {_mean(rewards[:10]):.2f} -> {_mean(rewards[-10:]):.2f}",
        }
        for ledger in result.ledgers:
            names = ("accepted", "trained", "expired", "queued", "in_flight", "duplicate", "rejected", "lost")
            what[ledger["fleet"]] = ", ".join(f"{name} {ledger[name]}" for name in names)
        during, other = result.during, FLEETS[1]
        what[FLEETS[0]] += (
            f"; cut {self._show.cut_s:.0f} s, acks again {result.back_s:.1f} s after it; meanwhile {during['generated']} "
            f"groups generated here, {during[other]} accepted from {other}, {during['steps']} steps"
        )
        result.lines = [f"{name:8} {site.hosts[name].address:14} {text}" for name, text in what.items()]

    def _poll(self) -> dict[str, int]:
        """Returns the number of groups whose acceptance each fleet has seen so far."""
        for fleet, tail in self._acked.items():
            self._counts[fleet] += len(tail.rows())
        return dict(self._counts)

    def _generated(self, fleet: str) -> int:
        rows = [row for row in Tail(self._site.run.metrics / f"{fleet}.jsonl").rows() if row["kind"] == "progress"]
        return rows[-1]["groups_generated"] if rows else 0


def perform(directory: Path, show: Show) -> Result:
    """Runs the demo over five hosts, in a directory of its own. Raises AssertionError, NetworkError."""
    settings = ("run.name=hosts", "learner.steps=100000", *show.settings)
    with Site(directory, settings) as site:
        return Hosts(site, show).run()


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(1, len(found))


def main(arguments: Sequence[str]) -> int:
    """Prints a line per host and the verdict; returns exit status 1 if it is bad, 2 if this machine permits no hosts."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.hosts", description=__doc__)
    parser.add_argument("--cut", type=float, default=60.0, help="seconds")
    parser.add_argument("--sglang", type=int, choices=(0, 1, 2), default=2, help="fleets with an SGLang server")
    parser.add_argument("--steps", type=int, default=20, help="before the cut, and again after it")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="section.key=value")
    parser.add_argument("--keep", type=Path, help="a directory for the logs, kept")
    options = parser.parse_args(arguments)
    network.end_on_sigterm()
    if reason := refusal() or network.refusal():
        print(f"cannot be shown here: {reason}")
        return 2
    show = Show(options.cut, options.sglang, options.steps, tuple(options.settings))
    with tempfile.TemporaryDirectory() as temporary:
        result = perform(options.keep or Path(temporary) / "site", show)
    print("\n".join(result.lines))
    ledger = "balanced" if not result.imbalances else "; ".join(result.imbalances)
    wire = "tls" if not (result.wire or result.leaked) else "NOT TLS"
    print(
        f"hosts=5 cut={show.cut_s:.0f}s lost={len(result.lost)} doubled={len(result.doubled)} ledger={ledger} wire={wire}"
    )
    return int(not result.good)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
