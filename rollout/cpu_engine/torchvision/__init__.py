"""Stands in for torchvision: SGLang's and transformers' image code imports it, text models never call it.

The CPU wheel of torch has no matching torchvision that could be installed without replacing torch.
"""

import enum
import importlib.machinery
import sys
import types

__version__ = "0.0.0"


class InterpolationMode(enum.Enum):
    """All members of the real enum: transformers builds a table of them when it is imported."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Submodule(types.ModuleType):
    """An empty package: each name in it is an empty class."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self.InterpolationMode = InterpolationMode

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _register(path):
    module = _Submodule(f"{__name__}.{path}")
    sys.modules[module.__name__] = module
    parent, _, leaf = module.__name__.rpartition(".")
    setattr(sys.modules[parent], leaf, module)


# Parents before children.
for _path in ("io", "ops", "transforms", "transforms.functional", "transforms.v2", "transforms.v2.functional"):
    _register(_path)
