"""torchrun's agent of a node, which asks what its ranks have ended with before it starts them again.

What it changes: overrides the private method LocalElasticAgent._monitor_workers and sets its _remaining_restarts.
Why: the original starts ranks again whatever they ended with: ten times over with a configuration that no restart mends, and
it counts a rollback, which is a restart that the learner asks for, as a failure.
Written for: torch 2.13.0 and 2.11.0.
Without it: --max-restarts attempts at a wrong configuration, and a run of many rollbacks that ends.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api

from learner.megatron.patches.guard import require_release, require_signature

require_release("torch")
require_signature(LocalElasticAgent._monitor_workers, "(self, worker_group)")


class NodeAgent(LocalElasticAgent):
    """An agent that ends at once when no restart would help, and does not count the restarts that ranks ask for.

    Attributes:
        final: exit statuses of ranks after which the agent ends.
        asked: exit statuses of ranks that ask to be started again; without --max-restarts the agent ends with them, too.
    """

    final: ClassVar[Collection[int]] = ()
    asked: ClassVar[Collection[int]] = ()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        # torch's decorator hides the parameter
        result: RunResult = super()._monitor_workers(worker_group)  # pyright: ignore[reportCallIssue]
        if result.state is WorkerState.FAILED:
            statuses = {failure.exitcode for failure in result.failures.values()}
            if statuses & set(self.final):
                self._remaining_restarts = 0
            elif statuses & set(self.asked) and worker_group.spec.max_restarts:
                self._remaining_restarts += 1  # the restart that follows takes it off again
        return result


def use(final: Collection[int], asked: Collection[int]) -> None:
    """Has torchrun use this agent in this process. Raises LookupError where torchrun makes its agent otherwise."""
    if not hasattr(api, "LocalElasticAgent"):
        raise LookupError("torch.distributed.launcher.api makes no LocalElasticAgent any more: port this patch")
    NodeAgent.final, NodeAgent.asked = final, asked
    module: Any = api
    module.LocalElasticAgent = NodeAgent
