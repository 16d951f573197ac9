"""Data sets: damaged files are named, the order of samples never changes, shapes are fitted."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_runtime import data
from nexus_runtime.errors import DataError


def _idx(array: np.ndarray) -> bytes:
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    code = codes[array.dtype.str[1:]]
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def _directory(path: Path, *, suffix: str = "") -> Path:
    path.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 8)):
        files = {
            f"{part}-images-idx3-ubyte": random.integers(0, 256, (count, 4, 4), np.uint8),
            f"{part}-labels-idx1-ubyte": random.integers(0, 3, count, np.uint8),
        }
        for name, array in files.items():
            raw = _idx(array)
            (path / (name + suffix)).write_bytes(gzip.compress(raw) if suffix else raw)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_every_idx_type_is_read(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = data.parse_idx(io.BytesIO(_idx(array)), "x")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_random_bytes_are_an_idx_array_or_a_data_error(raw):
    try:
        assert data.parse_idx(io.BytesIO(raw), "x").ndim >= 1
    except DataError as error:
        assert error.message.startswith("x: ")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200), st.booleans())
def test_a_truncated_file_is_a_data_error_that_names_it(tmp_path_factory, cut, compressed):
    directory = _directory(tmp_path_factory.mktemp("d"), suffix=".gz" if compressed else "")
    (path,) = directory.glob("t10k-images*")
    raw = path.read_bytes()
    if cut >= len(raw):
        return
    path.write_bytes(raw[:cut])
    with pytest.raises(DataError, match="t10k-images"):
        data.load(directory)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_data_or_a_data_error(tmp_path_factory, where, value):
    directory = _directory(tmp_path_factory.mktemp("d"), suffix=".gz")
    (path,) = directory.glob("train-labels*")
    raw = bytearray(path.read_bytes())
    raw[where % len(raw)] = value
    path.write_bytes(raw)
    try:
        assert len(data.load(directory).train_y) == 20
    except DataError as error:
        assert "train-labels" in error.message


def test_a_file_longer_than_announced_is_refused():
    raw = _idx(np.zeros((2, 2), np.uint8)) + b"x"
    with pytest.raises(DataError, match="longer than the 4 bytes"):
        data.parse_idx(io.BytesIO(raw), "x")


def test_a_header_that_announces_far_too_much_costs_no_memory():
    raw = struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)
    with pytest.raises(DataError, match="truncated"):
        data.parse_idx(io.BytesIO(raw), "x")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_directory_is_a_data_set(tmp_path, suffix):
    found = data.load(_directory(tmp_path / "mine", suffix=suffix))
    assert (found.name, found.train_x.shape, found.test_x.shape) == ("mine", (20, 4, 4), (8, 4, 4))
    assert (found.train_x.dtype, found.train_y.dtype) == (np.float32, np.int64)
    assert found.train_x.min() >= 0
    assert found.train_x.max() <= 1
    assert found.classes == 3


def test_labels_and_images_must_be_as_many(tmp_path):
    directory = _directory(tmp_path / "d")
    (directory / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.zeros(5, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-labels.*5 labels for images \[8, 4, 4\]"):
        data.load(directory)


def test_a_missing_file_is_named(tmp_path):
    directory = _directory(tmp_path / "d")
    (directory / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="has no train-labels-idx1-ubyte"):
        data.load(directory)


def test_missing_mnist_says_where_it_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setenv("NEXUS_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError) as caught:
        data.load("mnist")
    for place in ("elsewhere/mnist", "data/mnist", "shared/data/mnist"):
        assert place in caught.value.message
    assert "NEXUS_DATA" in caught.value.hint


def test_mnist_is_found_by_the_environment(tmp_path, monkeypatch):
    _directory(tmp_path / "mnist")
    monkeypatch.setenv("NEXUS_DATA", str(tmp_path))
    assert data.load("mnist").name == "mnist"
    assert data.load(data.resolve("mnist")).fingerprint() == data.load("mnist").fingerprint()


def test_an_unknown_name_is_an_error_with_a_cure():
    with pytest.raises(DataError, match="no data set 'minst'") as caught:
        data.load("minst")
    assert '"mnist"' in caught.value.hint


def test_digits_are_always_the_same():
    digits = data.load("digits")
    assert (digits.train_x.shape, digits.test_x.shape) == ((1437, 8, 8), (360, 8, 8))
    assert digits.train_x.max() == 1.0
    assert digits.fingerprint() == data.load("digits").fingerprint()
    assert set(np.unique(digits.test_y)) == set(range(10))


def test_the_fingerprint_tells_data_sets_apart(tmp_path):
    one = data.load(_directory(tmp_path / "one"))
    other = data.DataSet("x", one.train_x + 1, one.train_y, one.test_x, one.test_y)
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [((16,), (16,)), ((1, 4, 4), (1, 4, 4)), ((4, 4, 1), (4, 4, 1)), ((4, "n"), (4, 4))],
)
def test_features_take_the_models_shape(tmp_path, wanted, shape):
    fitted = data.load(_directory(tmp_path / "d")).shaped(wanted)
    assert fitted.train_x.shape == (20, *shape)
    assert fitted.test_x.shape == (8, *shape)


@pytest.mark.parametrize("wanted", [(15,), (4, 4, 2), ("a", "b", "c")])
def test_features_that_do_not_fit_are_an_error(tmp_path, wanted):
    with pytest.raises(DataError, match="samples of 'd' have shape 4x4, but the model takes"):
        data.load(_directory(tmp_path / "d")).shaped(wanted)


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 300))
def test_the_order_is_a_permutation(seed, epoch, samples):
    order = data.order(seed, epoch, samples)
    np.testing.assert_array_equal(np.sort(order), np.arange(samples))


def test_the_order_is_frozen():
    """Scheduler and workers of different releases must agree: these numbers never change."""
    assert data.order(3, 1, 10).tolist() == ORDER
    assert data.order(3, 2, 10).tolist() != ORDER
    assert data.mask_seed(3, 1) == MASK_SEED


ORDER = [0, 6, 2, 1, 3, 7, 4, 9, 8, 5]
MASK_SEED = 43145981
