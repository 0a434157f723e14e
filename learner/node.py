"""The learner's ranks of one node: `python -m learner.node [torchrun's options] -m learner FILE [--set ...]`.

It is torchrun, but for two things. torchrun ends with status 1 whatever a rank has failed with; this ends with the status of
the rank, by which Kubernetes knows a wrong configuration (2), refused credentials (3) and a rollback (4) from a failure (1).
And it does not start ranks again in place whose configuration no restart mends.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from learner.checkpoint.rollback import ROLLED_BACK
from learner.megatron.patches import node_agent
from runtime.errors import FAILED, MISCONFIGURED, REFUSED, LeewayError
from runtime.logs import configure, fatal
from runtime.termination import leave_reason

_FINAL = (MISCONFIGURED, REFUSED)


def main(arguments: list[str]) -> int:
    """Runs the ranks of this node; returns 0, or the exit status that says most of those that ranks have failed with."""
    configure("learner-node")
    try:
        node_agent.use(final=_FINAL, asked=(ROLLED_BACK,))
        run(parse_args(arguments))
    except ChildFailedError as error:
        return exit_status(error.failures)
    except SignalException as error:
        leave_reason(f"stopped by signal {error.sigval.name}", first=True)
        return FAILED
    except LeewayError as error:
        fatal(str(error))
        return error.exit_status
    return 0


def exit_status(failures: Mapping[int, ProcessFailure]) -> int:
    """Status for a node whose ranks have failed, by global rank; leaves the first failure as the reason if there is none."""
    statuses = {failure.exitcode for failure in failures.values()}
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    how = f"signal {-first.exitcode}" if first.exitcode < 0 else f"status {first.exitcode}"
    leave_reason(f"rank {rank} ended with {how}: see the log of this pod", first=True)
    return next((status for status in (*_FINAL, ROLLED_BACK) if status in statuses), FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
