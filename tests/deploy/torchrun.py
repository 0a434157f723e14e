"""torchrun over several nodes: what each flag and variable is for, as found by running it (torch 2.13).

A learner on Kubernetes needs the same (deploy/kubernetes/base/learner-nodes):

- ``--rdzv-endpoint``: host and port of the agent that holds the rendezvous; the JobSet's pod 0 by its stable name.
  ``is_host`` in ``--rdzv-conf`` says who that is; without it each agent compares the endpoint with its own host name.
- ``--local-addr``: how the others reach this node. Else the host name, which need not resolve elsewhere.
- ``join_timeout``: how long agents wait for a node that is missing, and so how long its replacement may take.
- ``--max-restarts``: how often an agent starts its ranks again after they failed. It never refills, so that a long run needs
  something above it that starts agents: the JobSet.
- ``--shutdown-timeout``: from SIGTERM to SIGKILL of the ranks, 30 s by default: the step under way and the last checkpoint.
- TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: else an agent that survives keeps the address of the first round's store, and its
  ranks look for it on the dead node whenever the replacement's address sorts before its own: they never meet again.
- GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME): else gloo listens where the host name points to.

What happens when a node dies:

- Ranks elsewhere fail at once where the dead one's connections are closed, and after ``collective_timeout_s`` where nobody is
  told (the machine lost its power or its network).
- A node without the rendezvous: the other agents stay, wait 15 s until three keep-alives are missing (no flag changes
  that), and meet the replacement in a new round, whatever its address. Rank 0 may be on another node then.
- The node with the rendezvous: its store is gone, and the other agents end with status 1 within seconds. All are to be
  started again. If nobody is told, they hang in the store's socket for more than four minutes, deaf to SIGTERM: something
  that sees the ranks gone (a liveness probe on their status port) must end them.
- Each time the new ranks are a learner of a newer epoch, which goes on from the newest checkpoint.

A node that is sent SIGTERM ends the learner, with a checkpoint; ranks of the other nodes end with a status that makes their
agents start them again, when the node is replaced. An agent's own exit status is 1 after SIGTERM, though every rank ended
well, and 1 whatever status a rank has failed with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tests.deploy.network import Host

_PORT = 29_400


@dataclass(frozen=True)
class Rendezvous:
    """A named rendezvous of ``nodes`` nodes with ``ranks`` ranks each, whose store the agent on ``holder`` runs."""

    holder: Host
    nodes: int
    ranks: int
    name: str


def command(rendezvous: Rendezvous, host: Host) -> tuple[list[str], dict[str, str]]:
    """Returns the command of one node, without the learner's own arguments, and its environment."""
    conf = f"is_host={int(host is rendezvous.holder)},join_timeout=120,read_timeout=20"
    words = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={rendezvous.nodes}"),
        *(f"--nproc-per-node={rendezvous.ranks}", "--rdzv-backend=c10d", f"--rdzv-id={rendezvous.name}"),
        *(f"--rdzv-endpoint={rendezvous.holder.address}:{_PORT}", f"--rdzv-conf={conf}"),
        *(f"--local-addr={host.address}", "--max-restarts=3", "--monitor-interval=0.2"),
        *("--shutdown-timeout=60", "-m", "learner"),
    ]
    return words, {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
