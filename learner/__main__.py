"""One learner rank: `torchrun --nproc-per-node N -m learner FILE [--set ...]`.

The heavy imports wait until main(): saving a checkpoint may re-import this module in helper processes.
"""

from __future__ import annotations

import argparse
import os
import sys


def main(arguments: list[str]) -> int:
    """Exit status: 0 done or stopped cleanly, 2 unusable configuration, 1 anything else."""
    from learner.config import LearnerConfig
    from learner.process.cuda_environment import prepare
    from runtime.arguments import add_settings, load
    from runtime.children import die_with_parent
    from runtime.errors import LeewayError
    from runtime.logs import configure, fatal
    from runtime.settings import SettingsError
    from runtime.termination import leave_reason

    if os.environ.get("LEEWAY_CHILD"):
        die_with_parent()
    parser = argparse.ArgumentParser(prog="torchrun -m learner", description="Runs one learner rank.")
    add_settings(parser)
    options = parser.parse_args(arguments)
    process = f"learner-{os.environ.get('RANK', '0')}"
    try:
        configure(process)
        config = load(LearnerConfig, options)
    except SettingsError as error:
        fatal(str(error))
        return 2
    log = configure(process, run=config.queue.run)
    prepare(config.parallel.tensor)
    try:
        from learner.launch import launch
    except LeewayError as error:  # megatron-core or torch is not the version that learner/megatron/patches requires
        leave_reason(str(error))
        log.error("configuration", error=str(error))
        return error.exit_status
    return launch(config, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
