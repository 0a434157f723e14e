"""Stands in for triton: SGLang decorates GPU kernels with ``@triton.jit`` at import time, also where none will run.

Every ``triton.a.b.c`` imports. ``jit``, ``autotune`` and ``heuristics`` return a kernel object that raises when launched.
(The real triton works too, and weighs 700 MB more.)
"""

import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "3.0.0"


class _Kernel:
    """A decorated kernel. ``kernel[grid](...)`` and ``kernel(...)`` raise NotImplementedError."""

    def __init__(self, function):
        self.fn = function
        self.__name__ = getattr(function, "__name__", "kernel")

    def __getitem__(self, _grid):
        return self

    def __call__(self, *_args, **_kwargs):
        raise NotImplementedError(f"triton kernel {self.__name__}: no Triton on the CPU path")


def jit(function=None, **_options):
    """Replaces ``@jit`` and ``@jit(...)``: returns a kernel that cannot be launched."""
    return _Kernel(function) if function is not None else _Kernel


def autotune(*_args, **_options):
    """Replaces ``@autotune(...)`` and ``@heuristics(...)``: leaves the kernel as it is."""
    return lambda kernel: kernel


heuristics = autotune


class Config:
    """One autotuning choice; SGLang reads the fields back."""

    def __init__(self, kwargs=None, num_warps=4, num_stages=2, **_options):
        self.kwargs = kwargs or {}
        self.num_warps = num_warps
        self.num_stages = num_stages


def cdiv(dividend, divisor):
    """Divides and rounds up; SGLang also uses it outside kernels."""
    return -(dividend // -divisor)


def next_power_of_2(number):
    """Returns the smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length() if number > 0 else 1


class _Submodule(types.ModuleType):
    """A package that creates each name when it is looked up: capitalised ones as classes, others as subpackages.

    Callable as a decorator, because ``tl.core.builtin`` and the like are used so.
    """

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, _finder, is_package=True)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("PTXAS") or name == "OutOfResources":
            value = type(name, (Exception,), {})  # used in `except` clauses
        elif name[0].isupper() or name == "constexpr":
            value = type(name, (), {"__init__": lambda self, value=None: setattr(self, "value", value)})
        else:
            value = _submodule(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value

    def __call__(self, *args, **_kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) else (lambda function: function)

    def __bool__(self):
        return False


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith(f"{__name__}."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Submodule(spec.name)

    def exec_module(self, module):
        pass


def _submodule(name):
    return sys.modules.get(name) or sys.modules.setdefault(name, _Submodule(name))


_finder = _Finder()
sys.meta_path.insert(0, _finder)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_root, name)


_root = _Submodule(__name__)
