"""Records of routing: which experts an engine sent the tokens of a sequence to, as bytes. numpy, no torch.

RoutedExperts in proto/leeway/v1/rollout.proto defines the layout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from runtime.settings import Settings

_SMALL = 256  # experts up to which an id fits into a byte

Ids = NDArray[np.integer]


class RoutingShape(Settings):
    """The mixture layers of a model, and the experts that a token is sent to in each of them."""

    layers: tuple[int, ...] = Field(min_length=1, description="numbers of the layers with experts, counted from 0")
    top_k: int = Field(gt=0, description="experts that a token is sent to")
    experts: int = Field(
        gt=0, le=32_768, description="experts of each of these layers, without those that take every token"
    )

    @property
    def token_bytes(self) -> int:
        """Size of one token's record."""
        return len(self.layers) * self.top_k * self._type.itemsize

    @property
    def _type(self) -> np.dtype:
        return np.dtype(np.uint8 if self.experts <= _SMALL else "<u2")

    def encode(self, ids: Ids) -> bytes:
        """Packs the ids of experts, [tokens, layers, top_k], all in [0, experts)."""
        return ids.astype(self._type).tobytes()

    def decode(self, data: bytes) -> Ids:
        """Unpacks the ids of experts, [tokens, layers, top_k]. Raises ValueError if they are not of whole tokens."""
        return np.frombuffer(data, self._type).reshape(-1, len(self.layers), self.top_k)


def first_outside(ids: Ids, experts: int) -> tuple[int, int, int] | None:
    """Returns token, layer and place of the first id that is not in [0, experts); ids are [tokens, layers, top_k]."""
    if not ids.size or (int(ids.min()) >= 0 and int(ids.max()) < experts):
        return None
    token, layer, place = np.argwhere((ids < 0) | (ids >= experts))[0].tolist()
    return token, layer, place


def first_doubled(ids: Ids) -> tuple[int, int, int] | None:
    """Returns token, layer and place of an id that the same token and layer has before; ids are [tokens, layers, top_k]."""
    columns = np.ascontiguousarray(np.moveaxis(ids, -1, 0))  # neighbours in memory are compared many at a time
    for place in range(1, len(columns)):
        for before in range(place):
            same = columns[place] == columns[before]
            if same.any():
                token, layer = np.argwhere(same)[0].tolist()
                return token, layer, place
    return None
