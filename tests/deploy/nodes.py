"""`python -m tests.deploy.nodes`: a learner over two nodes (TP2 inside each, PP2 across), of which one is replaced.

torchrun's c10d rendezvous brings the nodes together. What is killed is the node that does not hold the rendezvous (`--kill
worker`): the other's torchrun stays, ends its ranks and meets the replacement, which has another address. Or the node that
holds it (`--kill rendezvous`): the other's torchrun ends too, or is killed, and both are started again, as Kubernetes would.
`--power` cuts the host's link before the kill, so that nobody is told. Then both nodes are stopped, and one alone goes on
(TP2, PP1).

A fleet of tests/chaos/producer.py feeds it over mTLS and never stops. tests/deploy/torchrun.py says what each flag is for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from learner.config import LearnerConfig
from tests.chaos.account import Account, Id, lineage
from tests.chaos.producer import ProducerConfig
from tests.chaos.tail import Tail
from tests.deploy import network, torchrun
from tests.deploy.site import Site, refusal

FLEET = "tokyo"
_FIRST = 50  # last number of the first node's address
_HUNG_S = 40.0  # within which torchrun ends when its rendezvous is gone, if it can tell
_TOLERANCE = 1e-5  # of losses, in float32
_SETTINGS = (
    *("run.name=nodes", "learner.steps=100000", "learner.parallel.pipeline=2"),
    *("learner.groups_per_step=8", "learner.max_staleness=1000", "rollout.sampling.responses=4"),
    *("learner.checkpoint.every=4", "learner.publish.every=4", "learner.refill.enabled=false"),
)


@dataclass(frozen=True)
class Show:
    """Options of a run over two nodes.

    Attributes:
        kill: which node dies.
        power: whether its link is cut first, so that no peer is told of its end.
        collective_s: seconds after which ranks give up a silent peer.
        steps: optimizer steps of each learner, at the least.
        alone: whether one node goes on alone at the end.
        tensor: tensor-parallel size, and ranks of a node.
    """

    kill: Literal["worker", "rendezvous"] = "worker"
    power: bool = False
    collective_s: int = 10
    steps: int = 6
    alone: bool = True
    tensor: int = 2


@dataclass
class Result:
    """Outcome of a run over two nodes.

    Attributes:
        starts: the learners' start rows, in order: epoch, resumed_step, resumed_epoch.
        steps: (epoch, step, loss) of the surviving timeline, in order.
        repeated: (step, loss before, loss after) of steps that were lost and trained again on the same groups.
        hung: whether the survivor's torchrun did not notice that its rendezvous was gone, and had to be killed.
        back_s: seconds from the kill until the replacement's learner had trained.
        lost, doubled: groups, by the producer's and the learners' logs and the queue itself.
        imbalances: what `leeway ledger --recount` found wrong.
    """

    starts: list[dict[str, Any]] = field(default_factory=list)
    steps: list[tuple[int, int, float]] = field(default_factory=list)
    repeated: list[tuple[int, float, float]] = field(default_factory=list)
    hung: bool = False
    back_s: float = 0.0
    lost: list[Id] = field(default_factory=list)
    doubled: list[Id] = field(default_factory=list)
    imbalances: list[str] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    lines: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Every check that failed, one line each; empty when all is well."""
        found = [f"{len(self.lost)} groups lost"] * bool(self.lost) + [f"{len(self.doubled)} doubled"] * bool(
            self.doubled
        )
        if [step for _, step, _ in self.steps] != list(range(1, len(self.steps) + 1)):
            found.append(f"the surviving steps are not 1, 2, 3, ...: {[step for _, step, _ in self.steps]}")
        if not self.repeated:
            found.append("no step was trained again on the same groups")
        for step, before, after in self.repeated:
            if abs(before - after) > _TOLERANCE * max(1.0, abs(before)):
                found.append(f"step {step}: loss {before} before, {after} after")
        return found + self.imbalances


class Nodes:
    """A run over two nodes."""

    def __init__(self, site: Site, show: Show) -> None:
        self._site = site
        self._show = show
        self._result = Result()
        self._lives = 0
        self._learner = site.plan.learner.model_copy(
            update={"warmup": None, "collective_timeout_s": float(show.collective_s)}
        )

    def run(self) -> Result:
        """Trains, kills a node, replaces it, and goes on. Raises AssertionError when something does not happen in time."""
        self._start_fleet()
        first, second = self._host(_FIRST), self._host(_FIRST + 10)
        self._start_nodes(2, self._learner, first, second)
        self._trained(beyond=0)
        before, killed = self._epoch(), time.monotonic()
        self._kill(first, second)
        self._trained(beyond=before)
        self._result.back_s = time.monotonic() - killed
        if self._show.alone:
            before = self._epoch()
            self._stop()
            parallel = self._learner.parallel.model_copy(update={"pipeline": 1})
            self._start_nodes(1, self._learner.model_copy(update={"parallel": parallel}), self._host())
            self._trained(beyond=before)
        self._finish()
        return self._result

    def _host(self, address: int | None = None) -> str:
        """Makes a learner host; a replacement's address sorts before all others, which is the harder case."""
        self._lives += 1
        name = f"node-{self._lives}"
        self._site.hosts[name] = self._site.network.host(name, address or _FIRST - self._lives)
        return name

    def _start_nodes(self, nodes: int, learner: LearnerConfig, *names: str, holder: str = "") -> None:
        """Starts torchrun on hosts; the rendezvous is the first one's unless said otherwise."""
        site = self._site
        file = site.run.config / f"learner.{nodes}.json"
        learner.write(file)
        where, ranks = site.hosts[holder or names[0]], learner.parallel.tensor
        rendezvous = torchrun.Rendezvous(where, nodes, ranks, f"{learner.queue.run}-{nodes}")
        for name in names:
            words, environment = torchrun.command(rendezvous, site.hosts[name])
            site.start(name, name, [*words, str(file)], environment)

    def _start_fleet(self) -> None:
        site = self._site
        tls = site.add_fleet(FLEET, token=True)
        config = ProducerConfig(
            name=FLEET,
            address=site.plan.gateway.listen,
            token=site.run.secret(FLEET).read_text().strip(),
            tls=tls,
            log=site.run.root / f"producers/{FLEET}.jsonl",
            stop=site.directory / "stop",
            leased=False,
            per_s=16,
        )
        config.write(site.run.config / f"{FLEET}.json")
        site.hosts[FLEET] = site.network.host(FLEET)
        words = [sys.executable, "-m", "tests.chaos.producer", str(site.run.config / f"{FLEET}.json")]
        site.start(FLEET, FLEET, words)

    def _kill(self, first: str, second: str) -> None:
        """Kills a node between two checkpoints, and starts what is needed to go on."""
        site, show, every = self._site, self._show, self._learner.checkpoint.every
        dead, other = (second, first) if show.kill == "worker" else (first, second)
        site.until(lambda: site.step() % every >= every // 2, "step between two checkpoints", 120)
        if show.power:
            site.hosts[dead].cut()
        site.hosts[dead].remove()
        del site.children[dead]
        replacement = self._host()
        if show.kill == "worker":
            self._start_nodes(2, self._learner, replacement, holder=other)
            return
        del site.children[other]
        self._result.hung = not site.hosts[other].ends_within(_HUNG_S)
        site.hosts[other].kill()  # as a kubelet does with what its probes find dead
        self._start_nodes(2, self._learner, replacement, other)

    def _epoch(self) -> int:
        """Epoch of the newest learner that has begun; 0 for none."""
        return max((row["epoch"] for row in self._site.learner_rows("start")), default=0)

    def _trained(self, beyond: int) -> None:
        """Waits until a learner of a newer epoch has trained some steps."""

        def enough() -> bool:
            newest = self._epoch()
            steps = [row for row in self._site.learner_rows("step") if row["epoch"] == newest]
            return newest > beyond and len(steps) >= self._show.steps

        self._site.until(enough, f"{self._show.steps} steps of a learner after epoch {beyond}", 240)

    def _stop(self) -> None:
        """Sends SIGTERM to a node without rank 0, which ends the learner with a checkpoint, and then to the others."""
        site = self._site
        nodes = [name for name in site.children if name.startswith("node-")]
        for name in sorted(nodes, key=lambda name: site.hosts[name].address, reverse=True):
            site.end(name, 60)
        saved = site.learner_rows("checkpoint")[-1]["step"]
        if saved != site.step():
            raise AssertionError(
                f"the learner ended at step {site.step()}, its checkpoint is of step {saved}\n{site.tails()}"
            )

    def _finish(self) -> None:
        site, result = self._site, self._result
        (site.directory / "stop").touch()
        producer = site.children.pop(FLEET)
        if not producer.wait(time.monotonic() + 60) or producer.exit_code():
            raise AssertionError(f"the fleet did not end well\n{producer.tail()}")
        self._stop()
        accounts = site.accounts()
        result.account, result.imbalances, result.lost = accounts.account, accounts.imbalances, accounts.lost
        result.doubled = result.account.doubled
        result.starts = site.learner_rows("start")
        rows = site.learner_rows("step")
        survives = lineage(result.starts)
        result.steps = [
            (row["epoch"], row["step"], row["loss"]) for row in rows if row["step"] <= survives.get(row["epoch"], -1)
        ]
        result.repeated = self._repeated(rows)
        self._describe(len(accounts.waiting))

    def _repeated(self, rows: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
        """Steps that two learners have trained on the same groups, with both losses."""
        groups = {
            (row["epoch"], row["step"]): sorted(map(tuple, row["groups"]))
            for row in Tail(self._site.run.metrics / "trained.jsonl").rows()
        }
        found: dict[int, tuple[list[tuple[str, str]], float]] = {}
        repeated = []
        for row in rows:
            step, mine = row["step"], groups[row["epoch"], row["step"]]
            if step in found and found[step][0] == mine:
                repeated.append((step, found[step][1], row["loss"]))
            found[step] = (mine, row["loss"])
        return repeated

    def _describe(self, waiting: int) -> None:
        site, result = self._site, self._result
        hosts = [f"{name:8} {host.address}" for name, host in site.hosts.items()]
        learners = [
            f"learner of epoch {row['epoch']}: from step {row['resumed_step']} of epoch {row['resumed_epoch']}, "
            f"{sum(epoch == row['epoch'] for epoch, _, _ in result.steps)} of its steps survive"
            for row in result.starts
        ]
        repeated = ", ".join(f"{step}: {before:.6f} -> {after:.6f}" for step, before, after in result.repeated)
        account = result.account
        result.lines = [
            *hosts,
            *learners,
            f"losses of steps trained again on the same groups: {repeated or 'none'}",
            *["the survivor's torchrun hung and was killed"] * result.hung,
            f"back after {result.back_s:.1f} s; {len(account.acked)} groups acknowledged, {len(account.trained)} trained, "
            f"{account.retrained} trained again, {waiting} waiting",
        ]


def perform(directory: Path, show: Show) -> Result:
    """Runs a learner over two nodes, in a directory of its own. Raises AssertionError, NetworkError."""
    with Site(directory, [*_SETTINGS, f"learner.parallel.tensor={show.tensor}"]) as site:
        return Nodes(site, show).run()


def main(arguments: Sequence[str]) -> int:
    """Prints what happened and the verdict; returns exit status 1 if it is bad, 2 if this machine permits no hosts."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.nodes", description=__doc__)
    parser.add_argument("--kill", choices=("worker", "rendezvous"), default="worker")
    parser.add_argument("--power", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="of each learner, at the least")
    parser.add_argument("--tensor", type=int, default=2, help="tensor-parallel size, and ranks of a node")
    parser.add_argument("--keep", type=Path, help="a directory for the logs, kept")
    options = parser.parse_args(arguments)
    network.end_on_sigterm()
    if reason := refusal() or network.refusal():
        print(f"cannot be shown here: {reason}")
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        show = Show(options.kill, options.power, steps=options.steps, tensor=options.tensor)
        result = perform(options.keep or Path(temporary) / "site", show)
    print("\n".join(result.lines))
    killed = f"{options.kill}{', power' if options.power else ''}"
    verdict = "; ".join(result.faults) or f"ok, {len(result.steps)} steps, lost=0 doubled=0 ledger=balanced"
    print(f"nodes=2 killed={killed} back={result.back_s:.0f}s {verdict}")
    return int(bool(result.faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
