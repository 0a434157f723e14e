"""What the tests on a CUDA device need around them: exact float32, and ranks that find each other on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def surroundings() -> Iterator[None]:
    """Turns TF32 off, here and in the ranks that tests start, and keeps their communication on the loopback interface.

    NVIDIA's images may switch TF32 on, whose 10 bits are far from the limits of float32. gloo resolves the host's name, which
    a rented machine may not have.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0")
        patch.setenv("NVIDIA_TF32_OVERRIDE", "0")
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("NCCL_SOCKET_IFNAME", "lo")
        yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
