"""Memory: what says that it is full, and what only sounds like it."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from trainers.memory import is_memory_full


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_full(error: Exception) -> None:
    assert is_memory_full(error)


def test_what_numpy_and_torch_raise_for_too_much_is_known() -> None:
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**60, np.uint8)
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_memory_full(numpys.value)
    assert is_memory_full(torchs.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), OSError(errno.ENOSPC, "No space left"), ValueError("out of memory")]
)
def test_not_full(error: Exception) -> None:
    assert not is_memory_full(error)
