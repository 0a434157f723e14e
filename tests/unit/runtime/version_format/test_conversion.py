"""Elements converted between float32 and bfloat16 as torch does it, to the bit."""

from __future__ import annotations

import numpy as np
import torch

from runtime.version_format.conversion import converted


def test_conversions_of_every_kind_of_number():
    specials = [
        0x00000000,
        0x80000000,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
        0x7F800001,
        0xFF800001,
        0x7F7FFFFF,
        0x00000001,
    ]
    ties = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000]
    random = np.random.default_rng(1).integers(0, 1 << 32, 20_000, dtype=np.uint32)
    bits = np.concatenate([np.array(specials + ties, np.uint32), random])
    narrow = converted(bits, "F32", "bfloat16")
    reference = torch.from_numpy(bits.view(np.float32).copy()).bfloat16()
    ours = torch.from_numpy(narrow.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours.isnan(), reference.isnan())
    numbers = ~reference.isnan()
    assert torch.equal(ours[numbers].view(torch.int16), reference[numbers].view(torch.int16))
    wide = converted(narrow, "BF16", "float32").view(np.float32)
    assert np.array_equal(wide, ours.float().numpy(), equal_nan=True)
    half = np.arange(1 << 16, dtype=np.uint16)
    for dtype, unsigned in (("float32", np.uint32), ("bfloat16", np.uint16)):
        found = converted(half, "F16", dtype)
        kind = getattr(torch, dtype)
        expected = torch.from_numpy(half.view(np.float16).copy()).to(kind)
        assert found.dtype == unsigned
        assert torch.equal(torch.from_numpy(found).view(kind).nan_to_num(7.0), expected.nan_to_num(7.0))
        assert torch.equal(torch.from_numpy(found).view(kind).isnan(), expected.isnan())
    assert converted(bits, "F32", "float32") is bits
    assert converted(bits, "I32", "bfloat16") is bits
