"""Starts the processes of a run, each with its command, environment and log file."""

from __future__ import annotations

import math
import os
import socket
import sys
from pathlib import Path

from learner.cli.run.config_files import config_file
from learner.cli.run.free_port import free_port
from learner.cli.run.run_directory import RunError
from learner.cli.run.run_file import RunFile
from runtime.children import Child


class Commands:
    """Starts the processes of one run. Call the methods from the main thread."""

    def __init__(self, run_file: RunFile) -> None:
        self._run_file = run_file
        self._run = run_file.directory
        self._environment = {**os.environ, "LEEWAY_CHILD": "1", "PYTHONUNBUFFERED": "1"}

    def log(self, name: str) -> Path:
        """The file that receives the output of the process called ``name``."""
        return self._run.logs / f"{name}.log"

    def make_model(self) -> Child:
        """Starts the job that makes the demo's model."""
        seed = str(self._run_file.run.seed)
        tools = ["--tools"] if self._run_file.demo_model == "demo-tools" else []
        return self._python("model", "rollout", "model", "--out", str(self._run.model), "--seed", seed, *tools)

    def make_demonstrations(self, out: Path) -> Child:
        """Starts the job that writes demonstrations for the warm start to ``out``.

        Raises:
            ValueError: the run file has no [learner.warmup].
        """
        warmup = self._run_file.learner.warmup
        if warmup is None:
            raise ValueError("the run has no [learner.warmup]")
        options = {"--count": str(warmup.count), "--seed": str(self._run_file.run.seed), "--out": str(out)}
        arguments = [text for option in options.items() for text in option]
        file = config_file(self._run, "demonstrations")
        return self._python("demonstrations", "rollout", "demonstrations", str(file), *arguments)

    def gateway(self) -> Child:
        """Starts the gateway."""
        return self._python("gateway", "learner.gateway", str(config_file(self._run, "gateway")))

    def worker(self, name: str) -> Child:
        """Starts the rollout worker called ``name``."""
        return self._python(name, "rollout", str(config_file(self._run, name)))

    def evaluator(self) -> Child:
        """Starts the process that evaluates versions."""
        return self._python("evaluator", "rollout", "evaluate", str(config_file(self._run, "evaluator")))

    def learner(self) -> Child:
        """Starts the learner's ranks under torchrun.

        torchrun ends when a rank dies, because the supervisor does the restarting. After a stop signal it gives the ranks the
        run's whole grace period instead of its own default of 30 s.
        """
        torchrun = [
            *("--nnodes=1", f"--nproc-per-node={self._run_file.learner.world_size}", "--max-restarts=0"),
            *("--master-addr=127.0.0.1", f"--master-port={free_port()}"),
            f"--shutdown-timeout={math.ceil(self._run_file.learner.stop_grace_s)}",
        ]
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "learner"]
        environment = {"OMP_NUM_THREADS": "1", **self._environment}
        return Child("learner", [*command, str(config_file(self._run, "learner"))], self.log("learner"), environment)

    def _python(self, name: str, module: str, *arguments: str) -> Child:
        return Child(name, [sys.executable, "-m", module, *arguments], self.log(name), self._environment)


def require_free(address: str, key: str) -> None:
    """Checks that this process could listen on an address.

    Args:
        address: ``host:port``.
        key: the setting that names the address, for the message.

    Raises:
        RunError: something listens there already, or the host is not an address of this machine.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(
            f'{key} = "{address}": cannot listen there ({reason}); stop what listens there, or choose another address'
        ) from error
