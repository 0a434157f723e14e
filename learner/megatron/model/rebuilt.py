"""Tensors that the backward pass computes again instead of keeping: cheap functions of tensors that are kept anyway.

The output of a norm, queries and keys after norm and rotation, and the product of a gated MLP are elementwise work on what
other layers keep. Whoever makes such a tensor attaches how it was made (``rebuildable``); whoever keeps it for the backward
pass does so within ``rebuilding``, and keeps that in place of the tensor. It is made by the same function of the same
values, so that gradients do not change by a bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

_ATTRIBUTE = "_leeway_recipe"


@dataclass(frozen=True)
class Recipe:
    """How a tensor was made.

    Attributes:
        function: makes it of ``inputs``; deterministic.
        inputs: detached tensors that are kept for the backward pass in any case.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    def make(self) -> Tensor:
        """Makes the tensor again."""
        with torch.no_grad():
            return self.function(*self.inputs)


@dataclass(frozen=True)
class _Packed:
    """What is kept in place of a tensor."""

    recipe: Recipe
    shape: torch.Size


def rebuildable(tensor: Tensor, recipe: Recipe) -> Tensor:
    """Attaches to ``tensor`` how it was made, and returns it."""
    setattr(tensor, _ATTRIBUTE, recipe)
    return tensor


def recipe_of(tensor: Tensor) -> Recipe | None:
    """How a tensor, or the whole tensor that it is another shape of, was made; None if that is not known."""
    found = getattr(tensor, _ATTRIBUTE, None)
    base = tensor._base
    if found is None and base is not None and base.numel() == tensor.numel() and tensor.is_contiguous():
        found = getattr(base, _ATTRIBUTE, None)
    return cast(Recipe | None, found)


@contextlib.contextmanager
def rebuilding(*tensors: Tensor) -> Iterator[None]:
    """Context in which those of ``tensors`` whose recipe is known are not kept for the backward pass, but made again in it.

    The caller holds them until the context ends, so that no other tensor can have their memory.
    """
    known = {one.data_ptr(): (one, recipe) for one in tensors if (recipe := recipe_of(one)) is not None}
    if not known or not torch.is_grad_enabled():
        yield
        return

    def pack(kept: Tensor) -> Tensor | _Packed:
        one, recipe = known.get(kept.data_ptr(), (None, None)) if kept.numel() else (None, None)
        same = one is not None and kept.numel() == one.numel() and kept.dtype == one.dtype
        if recipe is not None and same and kept.is_contiguous():
            return _Packed(recipe, kept.shape)
        return kept

    def unpack(kept: Tensor | _Packed) -> Tensor:
        return kept.recipe.make().view(kept.shape) if isinstance(kept, _Packed) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
    known.clear()  # what was kept in here refers to ``pack`` until the backward pass
