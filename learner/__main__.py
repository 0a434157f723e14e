"""One learner rank: `torchrun --nproc-per-node N -m learner FILE`.

The heavy imports wait until main(): saving a checkpoint may re-import this module in helper processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(path: str) -> int:
    """Exit status: 0 done or stopped cleanly, 2 unusable configuration, 1 anything else."""
    from learner.config import LearnerConfig
    from runtime.children import die_with_parent
    from runtime.logs import configure
    from runtime.settings import SettingsError

    if os.environ.get("LEEWAY_CHILD"):
        die_with_parent()
    log = configure(f"learner-{os.environ.get('RANK', '0')}")
    try:
        config = LearnerConfig.load(Path(path))
    except SettingsError as error:
        log.error(str(error))
        return 2
    from learner.launch import launch

    return launch(config, log)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m torch.distributed.run --nproc-per-node N -m learner FILE.json")
    sys.exit(main(sys.argv[1]))
