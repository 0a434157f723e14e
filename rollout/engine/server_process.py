"""An SGLang server as a child process: started with flags for its device, watched while it loads, killed as a group."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path

import aiohttp

from rollout.config import EngineConfig
from rollout.engine.adapters import AdapterLimits
from rollout.engine.answers import NO_KEY
from rollout.engine.cpu_shims import cpu_shims
from rollout.engine.routing_reader import SERVER_FLAG
from runtime.children import Child
from runtime.errors import MISCONFIGURED, LeewayError

_HOST = "127.0.0.1"
_GUARD = Path(__file__).with_name("parent_death_guard.py")
# Sources: the documentation of SGLang 0.5.23, and measurements on two cores (BENCHMARKS.md).
_ALWAYS = (
    "--skip-tokenizer-init",  # token ids in and out; text never reaches the server
    "--skip-server-warmup",  # the first refit and request prove more than its warm-up would
    "--incremental-streaming-output",  # pieces of a stream have their new tokens only, not all tokens so far
    "--sleep-on-idle",  # else the idle scheduler burns a core
    *("--log-level-http", "warning"),  # lines for every request would be most of the log
)
_CPU = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32"),
    *("--cuda-graph-backend-decode=disabled", "--cuda-graph-backend-prefill=disabled"),
    "--disable-overlap-schedule",  # no device to overlap with: it only adds a thread
    *("--mem-fraction-static", "0.3", "--max-total-tokens", "16384", "--max-running-requests", "256"),
)
# In-place refits keep the cache, and a shared prefix would serve keys and values of ever older weights to new requests.
_IN_PLACE = ("--disable-radix-cache",)


class ServerError(LeewayError):
    """A server that cannot be started. The message contains the end of its log."""


class PortInUseError(ServerError):
    """Something else listens on the port. Waiting does not help: the configuration has to change."""

    exit_status = MISCONFIGURED


class Server:
    """A running SGLang server. Create it on the main thread: the kernel ties the process to the thread that forked it.

    Args:
        config: how servers are started.
        index: number of the engine in its worker; the server listens on ``config.base_port + index``.
        model: Hugging Face directory of the initial policy.
        log: file that its output is appended to.
        adapters: what it has to be prepared for; None: no adapter is loaded into it.

    Raises:
        PortInUseError: the port is taken.
        SettingsError: config.device is "cpu" and SGLang is not installed in the release that its stand-ins are for.
    """

    def __init__(
        self, config: EngineConfig, index: int, model: Path, log: Path, adapters: AdapterLimits | None = None
    ) -> None:
        self._port = config.base_port + index
        self._timeout = config.start_timeout_s
        self.url = f"http://{_HOST}:{self._port}"
        _require_free(self._port)
        self._child = Child(f"engine-{index}", _command(config, model, self._port, adapters), log, _environment(config))

    @property
    def pid(self) -> int:
        """Process id of the guard, which leads the server's process group."""
        return self._child.pid

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._child.exit_code() is not None

    async def wait_until_up(self, session: aiohttp.ClientSession) -> None:
        """Waits until the server answers HTTP, which it does only after its model is loaded.

        Raises:
            ServerError: it ended, or did not answer within ``start_timeout_s``.
        """
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            if self.ended():
                raise ServerError(
                    f"{self._child.name} ended while starting; {self._child.log} ends with\n{self.tail()}"
                )
            if await unreachable(session, self.url) is None:
                return
            await asyncio.sleep(0.1)
        raise ServerError(
            f"{self._child.name} was not up after engine.start_timeout_s = {self._timeout:g}; {self._child.log} ends with\n"
            + self.tail()
        )

    def tail(self) -> str:
        """The last lines of its log, for an error message."""
        return self._child.tail(12)

    def kill(self) -> None:
        """Sends SIGKILL to the server and all its children: it has no state that would need a clean end."""
        self._child.kill()


async def unreachable(session: aiohttp.ClientSession, url: str) -> str | None:
    """Returns why no server answers at the URL; None if one does: it describes its model."""
    path = f"{url}/model_info"
    try:
        async with session.get(path, timeout=aiohttp.ClientTimeout(total=5)) as response:
            if response.status in NO_KEY:
                return f"{path}: HTTP {response.status}: it wants a key; engine.key_file has none, or not its --api-key"
            return None if response.status == 200 else f"{path}: HTTP {response.status}"
    except TimeoutError:
        return f"{path}: no answer within 5 s"
    except aiohttp.ClientError as error:
        return f"{path}: {type(error).__name__}: {error}"


def _command(config: EngineConfig, model: Path, port: int, adapters: AdapterLimits | None) -> list[str]:
    server = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(model.resolve())]
    server += ["--host", _HOST, "--port", str(port), *_ALWAYS, *_flags(config)]
    server += [*_adapter_flags(config, adapters), *config.arguments]
    return [sys.executable, "-S", "-E", str(_GUARD), str(os.getpid()), *server]


def _flags(config: EngineConfig) -> tuple[str, ...]:
    routing = (SERVER_FLAG,) if config.return_routed_experts else ()
    return (_CPU if config.device == "cpu" else ()) + (_IN_PLACE if config.refit == "in_place" else ()) + routing


def _adapter_flags(config: EngineConfig, adapters: AdapterLimits | None) -> list[str]:
    if adapters is None:
        return []
    flags = ["--enable-lora", "--max-lora-rank", str(adapters.rank), "--lora-target-modules", *adapters.targets]
    return [*flags, *(("--lora-backend", "torch_native") if config.device == "cpu" else ())]


def _environment(config: EngineConfig) -> dict[str, str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if config.device == "cpu":
        environment |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(cpu_shims())}
        environment["TORCH_COMPILE_DISABLE"] = "1"  # routers with a correction bias: the compiler wants the real triton
    return environment


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT does not block
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} on {_HOST} is in use ({error.strerror}): stop what listens there, or set engine.base_port"
            ) from error
