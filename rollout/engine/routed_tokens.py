"""Which experts of a mixture an engine has sent the tokens of a sequence to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leeway.v1 import rollout_pb2
from runtime.routing_record import Ids, RoutingShape


@dataclass(frozen=True, eq=False)
class RoutedTokens:
    """The experts of the first tokens of a sequence, counted from the beginning of its prompt.

    Attributes:
        shape: the mixture layers that they are of.
        ids: [tokens, layers, top_k].
    """

    shape: RoutingShape
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, tokens: int) -> RoutedTokens | None:
        """Returns those of so many tokens at most; None if that leaves none."""
        return RoutedTokens(self.shape, self.ids[:tokens]) if tokens > 0 and len(self) else None

    def message(self) -> rollout_pb2.RoutedExperts:
        """Returns them in the contract's form."""
        fields = self.shape.model_dump()
        return rollout_pb2.RoutedExperts(**fields, start=0, ids=self.shape.encode(self.ids))


def continued(before: RoutedTokens | None, after: RoutedTokens | None) -> RoutedTokens | None:
    """Returns the experts of a sequence that was read twice, the second time with more tokens at its end.

    Those of the first time stay: with them its tokens were sampled. The second time, another engine or another version may
    have computed the same tokens.

    Args:
        before: of the first time; None if they are not known.
        after: of the second time, from the beginning of the sequence on; None if they are not known.
    """
    if before is None or after is None or before.shape != after.shape or len(after) <= len(before):
        return after if before is None else before
    return RoutedTokens(before.shape, np.concatenate([before.ids, after.ids[len(before) :]]))
