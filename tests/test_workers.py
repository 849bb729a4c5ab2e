"""Workers: how many train at once."""

from __future__ import annotations

import pytest

from trainers.runs import available_cores
from trainers.workers import GPU_CANDIDATE_BYTES, default_workers, gpu_workers

GB = 2**30


def test_on_a_cpu_one_a_core_up_to_eight() -> None:
    assert default_workers(["cpu"]) == min(8, available_cores())


@pytest.mark.parametrize(
    ("free", "cores", "workers"),
    [
        ([78 * GB], 16, 4),  # never more than four
        ([2 * GPU_CANDIDATE_BYTES], 16, 2),  # as many as fit
        ([GPU_CANDIDATE_BYTES - 1], 16, 1),  # one is tried in any case
        ([78 * GB], 2, 2),  # each needs a core
        ([78 * GB, 78 * GB], 16, 8),
        ([78 * GB, 13 * GB], 16, 4),  # as many on each, as fit the fuller one
        ([78 * GB] * 4, 2, 4),  # one a GPU
    ],
)
def test_on_gpus_as_many_as_memory_and_cores_allow(free: list[int], cores: int, workers: int) -> None:
    assert gpu_workers(free, cores) == workers
