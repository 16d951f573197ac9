from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexus_compiler.ir.fingerprint import Fingerprint

FACTORS = st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=4).map(tuple)


@given(FACTORS, FACTORS)
def test_equal_factors_and_only_they_have_equal_digests(a: tuple, b: tuple) -> None:
    assert (Fingerprint(a).digest == Fingerprint(b).digest) == (a == b)


def test_a_difference_is_named() -> None:
    old = Fingerprint((("tvm", "0.27"), ("target", "v3"), ("gone", "1")))
    new = Fingerprint((("tvm", "0.28"), ("target", "v3"), ("added", "2")))
    assert old.diff(new) == [("tvm", "0.27", "0.28"), ("gone", "1", None), ("added", None, "2")]
