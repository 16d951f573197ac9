from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nexus_runtime import tensors
from nexus_runtime.errors import ArtifactError, InputError

DTYPES = ["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: hnp.arrays(
                dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
            )
        ),
        max_size=4,
    )
)
def test_named_tensors_survive(arrays: dict[str, np.ndarray]) -> None:
    found = tensors.decode(tensors.encode(arrays), origin="test")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert found[name].ctypes.data % tensors.ALIGNMENT == 0 or array.size == 0


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_small_floats_survive(dtype: type) -> None:
    array = np.array([0.5, -2, 8], dtype)
    found = tensors.decode(tensors.encode({"x": array}), origin="test")["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found.view(np.uint8), array.view(np.uint8))


def test_others_can_read_what_is_written() -> None:
    arrays = {
        "é": np.arange(6, dtype="float32").reshape(2, 3).T,
        "scalar": np.array(7, "int64"),
        "empty": np.zeros((0, 3), "uint8"),
    }
    found = safetensors.numpy.load(tensors.encode(arrays))
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_contiguous_arrays_are_not_copied() -> None:
    array = np.arange(6, dtype="float32")
    _, piece = tensors.pieces({"x": array})
    assert np.shares_memory(np.frombuffer(piece, np.uint8), array)


def test_a_name_of_the_format_is_refused() -> None:
    with pytest.raises(ArtifactError, match="'__metadata__'"):
        tensors.encode({"__metadata__": np.zeros(1)})


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="the weights are damaged"):
        tensors.decode(data, origin="test")


def test_aligned_leaves_good_arrays_alone() -> None:
    good = tensors.empty_aligned((3, 5), np.dtype("float32"))
    assert tensors.aligned(good) is good


def shifted() -> np.ndarray:
    return np.zeros(4 * 15 + 1, np.uint8)[1:].view(np.float32).reshape(3, 5)


@pytest.mark.parametrize(
    "array",
    [
        shifted(),
        np.arange(30, dtype=np.float32).reshape(3, 10)[:, ::2],
        np.arange(15, dtype=np.float32).reshape(5, 3).T,
        np.broadcast_to(np.float32(3), (3, 5)),
        np.zeros((0, 5), np.float32),
        np.float32(2) * np.ones(()),
    ],
    ids=["unaligned", "strided", "transposed", "read-only", "empty", "scalar"],
)
def test_aligned_copies_the_others(array: np.ndarray) -> None:
    found = tensors.aligned(array)
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape
    assert found.flags.c_contiguous and found.flags.writeable
    assert found.ctypes.data % tensors.ALIGNMENT == 0 or found.size == 0


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(InputError, match="no array of numbers"):
        tensors.as_numpy("text", name="x")
    with pytest.raises(InputError, match="no array of numbers"):
        tensors.as_numpy({"a": 1}, name="x")
    assert tensors.as_numpy([1.0, 2.0], name="x").shape == (2,)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 5), (0, 4), (2, 0)])
def test_empty_arrays_have_the_strides_of_full_ones(shape: tuple[int, ...]) -> None:
    array = tensors.aligned(np.empty(shape, np.int64))
    counts = [int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape))]
    assert array.shape == shape
    assert [stride // 8 for stride in array.strides] == counts
