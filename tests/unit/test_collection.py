"""Full collections of Python's and builds."""

from __future__ import annotations

import gc
import threading

import pytest

from nexus_compiler.collection import WithoutFullCollections


def test_full_collections_wait_for_the_last_build() -> None:
    before = gc.get_threshold()
    inside, leave = threading.Event(), threading.Event()

    @WithoutFullCollections()
    def build() -> None:
        inside.set()
        leave.wait()

    other = threading.Thread(target=build)
    with WithoutFullCollections():
        other.start()
        inside.wait()
    assert gc.get_threshold()[:2] == before[:2]
    assert gc.get_threshold()[2] > 1000 * before[2], "the other build goes on"
    leave.set()
    other.join()
    assert gc.get_threshold() == before


def test_a_build_that_fails_lets_them_go_on() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="broken"), WithoutFullCollections():
        raise ValueError("broken")
    assert gc.get_threshold() == before
