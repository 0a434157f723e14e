"""Records of experts as bytes: their size, and the first id that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.routing_record import RoutingShape, first_doubled, first_outside


@pytest.mark.parametrize(("experts", "size"), [(256, 12), (257, 24)])
def test_ids_come_back_as_they_were(experts: int, size: int):
    shape = RoutingShape(layers=(0, 1, 5), top_k=4, experts=experts)
    assert shape.token_bytes == size
    ids = np.random.default_rng(0).integers(0, experts, (7, 3, 4))
    data = shape.encode(ids)
    assert len(data) == 7 * size
    assert (shape.decode(data) == ids).all()
    with pytest.raises(ValueError, match="reshape"):
        shape.decode(data[:-2])


def test_the_first_id_that_cannot_be_is_found():
    ids = np.array([[[0, 1, 2], [2, 1, 0]], [[3, 0, 1], [1, 2, 1]], [[0, 0, 4], [0, 1, 2]]])
    assert first_outside(ids, 5) is None
    assert first_outside(ids, 4) == (2, 0, 2)
    assert first_outside(ids - 1, 5) == (0, 0, 0)
    assert first_doubled(ids[:1]) is None
    assert first_doubled(ids[:2]) == (1, 1, 2)
    assert first_doubled(ids[2:]) == (0, 0, 1)
    assert first_outside(ids[:0], 1) is None
    assert first_doubled(ids[:0]) is None
