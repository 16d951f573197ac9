from __future__ import annotations

import pytest

from nexus_compiler.cli import options
from nexus_runtime.errors import NexusError


def test_shapes() -> None:
    assert options.shapes(["x=1,3,48,192", "y=?x4", "z=batch,2"]) == {
        "x": (1, 3, 48, 192),
        "y": (None, 4),
        "z": ("batch", 2),
    }


@pytest.mark.parametrize("text", ["x", "x=", "=1", "x=1,,2", "x=0", "x=-1", "x=1.5", "x=1 2"])
def test_bad_shapes_are_refused(text: str) -> None:
    with pytest.raises(NexusError):
        options.shapes([text])


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(NexusError, match="'x' is given twice"):
        options.pairs(["x=1", "x=2"], option="--input")


def test_sizes() -> None:
    assert options.sizes(["batch=4"]) == {"batch": 4}
    with pytest.raises(NexusError, match="whole number"):
        options.sizes(["batch=four"])
