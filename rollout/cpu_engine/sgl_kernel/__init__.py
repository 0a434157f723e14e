"""Stands in for sgl_kernel, of which no CPU build is published. Every name imports; calling one raises.

One function is real: SGLang's CPU allocator always calls it, and it has no PyTorch fallback there.
"""


def assign_req_to_token_pool_cpu(requests, table, starts, ends, slots, width):
    """Writes the next ``ends[i] - starts[i]`` of ``slots`` to row ``requests[i]`` of ``table``, columns starts[i]:ends[i]."""
    taken = 0
    for row, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True):
        count = end - start
        table[row, start:end] = slots[taken : taken + count].to(table.dtype)
        taken += count


def __getattr__(name):
    # Dunder look-ups (__path__, __spec__, ...) must fail as on any module, or the import system is misled.
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args, **_kwargs):
        raise NotImplementedError(f"sgl_kernel.{name}: no CPU stand-in exists for this kernel")

    return missing
