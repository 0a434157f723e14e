"""`python -m tests.deploy.waiting FILE`: prints the groups in the queue of a gateway's settings, as [[fleet, id], ...].

Run on a host that reaches Redis; a group that was taken and not yet committed is among them.
"""

from __future__ import annotations

import contextlib
import json
import sys

from learner.config import GatewayConfig
from learner.queue.connect import connect
from tests.chaos.drain import groups_in


def main(file: str) -> None:
    """Prints the groups as JSON."""
    config = GatewayConfig.load(file).queue
    with contextlib.closing(connect(config)) as client:
        print(json.dumps(sorted(groups_in(client, config.run))))


if __name__ == "__main__":
    main(sys.argv[1])
