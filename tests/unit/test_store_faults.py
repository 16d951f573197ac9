"""Eight processes on one store, and kill -9; `tests/store_faults.py` is the long run."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_faults import Trial


@pytest.mark.parametrize(("rounds", "limit"), [(32, 10**12), (8, 1_000_000)])
def test_nothing_breaks(tmp_path: Path, rounds: int, limit: int) -> None:
    trial = Trial(tmp_path, processes=8, limit=limit, seed=rounds)
    try:
        for _ in range(rounds):
            trial.play()
    finally:
        said = trial.finish()
    assert said["killed"] == rounds + 8
    assert said["built"] > 0
    assert said["asked"] > said["built"]
