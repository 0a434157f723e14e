"""Runs one gateway: `python -m learner.gateway FILE [--set ...]`. Exit status 2: the configuration cannot be used."""

from __future__ import annotations

import argparse
import os
import sys

import uvloop

from learner.config import GatewayConfig
from runtime import logs
from runtime.allocator import keep_freed_memory
from runtime.arguments import add_settings, load
from runtime.children import die_with_parent
from runtime.settings import SettingsError


def main(arguments: list[str]) -> int:
    """Runs the gateway until a stop signal; returns the exit status."""
    if os.environ.get("LEEWAY_CHILD") == "1":
        die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m learner.gateway", description="Runs a gateway until SIGTERM.")
    add_settings(parser)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    # gRPC reads this when it is imported. At lower levels it copies what clients send, byte for byte, into the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

    from learner.gateway.server import serve

    try:
        logs.configure("gateway")
        config = load(GatewayConfig, options)
        logs.configure("gateway", run=config.queue.run)
        uvloop.run(serve(config))
    except SettingsError as error:
        logs.fatal(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
