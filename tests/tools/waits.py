"""Finds what would make the host wait for a CUDA device, on a machine that has none."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Calls that read a tensor's values on the host, or copy a number to the device and wait until it has arrived.
_READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__")
# Operators whose result has a size that depends on values, so that the host has to know them.
_SIZES = ("nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive", "histc", "equal")


class Waits:
    """Operations that would wait for a CUDA device, in the order they were made.

    Attributes:
        found: name of each operation, and the line of this repository that made it.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._on_host = False

    @contextlib.contextmanager
    def watching(self, operators: bool = True) -> Iterator[Waits]:
        """Records what is done in here; every tensor counts as one on the device.

        Args:
            operators: whether to see the operators too, not only the calls of Python code: not where tensors of a subclass
                are made, as torch's attention biases are.
        """
        calls = _READS if operators else _READS + _SIZES
        with _Functions(self, calls), _Operators(self) if operators else contextlib.nullcontext():
            yield self

    def on_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns ``function``, which works on tensors in host memory: what it does is not recorded."""

        def call(*args: Any, **options: Any) -> Any:
            before, self._on_host = self._on_host, True
            try:
                return function(*args, **options)
            finally:
                self._on_host = before

        return call

    def add(self, name: str) -> None:
        """Records an operation, unless it works on host memory."""
        if self._on_host:
            return
        ours = [f for f in traceback.extract_stack() if "/learner/" in f.filename or "/megatron/" in f.filename]
        place = f" in {ours[-1].filename.rpartition('/')[2]}:{ours[-1].name}" if ours else ""
        self.found.append(name + place)


class _Functions(TorchFunctionMode):
    """Sees the calls of Python code."""

    def __init__(self, waits: Waits, calls: tuple[str, ...]) -> None:
        super().__init__()
        self._waits = waits
        self._calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self._calls or name == "new_tensor" or (func is torch.tensor and "device" in (kwargs or {})):
            self._waits.add(name)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Sees the operators, whoever calls them."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        unknown = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        chosen = name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if name in _SIZES or unknown or chosen:
            self._waits.add(name)
        return func(*args, **(kwargs or {}))
