"""Data sets for training, and the order in which a job visits their samples.

Scheduler and workers load the same data set each for itself and compute the same order from the
job's seed, so that a lease names samples by two numbers. The order must therefore never change
between
releases: it rests on NumPy's SeedSequence and PCG64, whose streams are guaranteed (NEP 19), and not
    on `Generator.permutation`, whose stream is not.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nexus_runtime.errors import DataError

#: The IDX format's type codes (http://yann.lecun.com/exdb/mnist/): big-endian numbers.
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_CHUNK = 1 << 20
_Stream = BinaryIO | gzip.GzipFile


@dataclass(frozen=True)
class DataSet:
    """A classification data set.

    Attributes:
        train_x, test_x: float32 [n, features...].
        train_y, test_y: int64 [n], classes from 0.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return 1 + int(max(self.train_y.max(), self.test_y.max()))

    def fingerprint(self) -> str:
        """SHA-256 of shapes, all labels and 64 rows: tells two data sets apart, cheaply."""
        digest = hashlib.sha256()
        for x, y in ((self.train_x, self.train_y), (self.test_x, self.test_y)):
            rows = x.reshape(len(x), -1)[:: max(1, len(x) // 64)]
            digest.update(f"{rows.shape[1]} {len(y)};".encode())
            digest.update(np.ascontiguousarray(y).tobytes())
            digest.update(np.ascontiguousarray(rows).tobytes())
        return digest.hexdigest()

    def shaped(self, wanted: Sequence[int | str]) -> DataSet:
        """The same samples with features of shape `wanted`, a model's input without its batch.

        A name in `wanted` stands for any size. 28x28 goes into 784, 1x28x28 and 28x28x1 alike.

        Raises:
            DataError: the sizes do not match.
        """
        own = self.train_x.shape[1:]
        if len(own) == len(wanted) and all(
            isinstance(w, str) or w == o for w, o in zip(wanted, own)
        ):
            return self
        sizes = [dim for dim in wanted if isinstance(dim, int)]
        if len(sizes) < len(wanted) or int(np.prod(sizes)) != int(np.prod(own)):
            raise DataError(
                f"samples of '{self.name}' have shape {_shape(own)}, "
                f"but the model takes {_shape(wanted)}",
                hint="change the input of the graph",
            )
        return replace(
            self,
            train_x=self.train_x.reshape(-1, *sizes),
            test_x=self.test_x.reshape(-1, *sizes),
        )


def order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order in which an epoch visits the samples: int64 [samples], a permutation."""
    stream = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    return np.argsort(stream.random_raw(samples), kind="stable")


def mask_seed(seed: int, epoch: int) -> int:
    """The seed (32 bits) of an epoch's dropout masks."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:4], "big")


def load(name_or_path: str | Path) -> DataSet:
    """Load "mnist", "digits", or a directory that holds four IDX files named like MNIST's.

    "mnist" is looked for in `$NEXUS_DATA/mnist`, `data/mnist` and `../shared/data/mnist`; its
    pixels become float32 from 0 to 1. "digits" is scikit-learn's: 8x8, 1437 samples to train, 360
    to test.

    Raises:
        DataError: it is not found, or a file is damaged.
    """
    name = str(name_or_path)
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _from_directory(_find_mnist(), name)
    directory = Path(name)
    if not directory.is_dir():
        raise DataError(
            f"there is no data set '{name}' and no directory of that name",
            hint='use "mnist", "digits", or a directory with IDX files',
        )
    return _from_directory(directory, directory.name)


def resolve(name_or_path: str | Path) -> str:
    """The spec that finds the same data set from another working directory of this machine."""
    name = str(name_or_path)
    if name == "mnist":
        return str(_find_mnist().resolve())
    return name if name == "digits" else str(Path(name).resolve())


def parse_idx(stream: _Stream, origin: str) -> np.ndarray:
    """Read one IDX array; never more of `stream` than its header announces, plus one byte.

    Raises:
        DataError: wrong magic, unknown type, truncated, or longer than announced.
    """
    magic = _exactly(stream, 4, origin, "header")
    dtype = _IDX_DTYPES.get(magic[2])
    if magic[:2] != b"\0\0" or dtype is None or not magic[3]:
        raise DataError(
            f"{origin}: no IDX file: it begins with {magic.hex(' ')}",
            hint="IDX begins with 00 00, a type from 08 to 0e, and the number of dimensions",
        )
    header = _exactly(stream, 4 * magic[3], origin, "header")
    dims = [int(dim) for dim in np.frombuffer(header, ">u4")]
    if len(dims) > 64:
        raise DataError(f"{origin}: {len(dims)} dimensions are too many")
    size = math.prod([np.dtype(dtype).itemsize, *dims])
    body = _exactly(stream, size, origin, f"{'x'.join(map(str, dims))} array")
    if stream.read(1):
        raise DataError(f"{origin}: longer than the {size} bytes its header announces")
    array = np.frombuffer(body, dtype)
    return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(dims)


def _exactly(stream: _Stream, size: int, origin: str, what: str) -> bytes:
    parts, left = list[bytes](), size
    while left and (part := stream.read(min(_CHUNK, left))):
        parts.append(part)
        left -= len(part)
    if left:
        raise DataError(
            f"{origin}: truncated: its {what} needs {size} bytes, {size - left} are there",
            hint="fetch the file again",
        )
    return b"".join(parts)


def _read_idx(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            if path.suffix != ".gz":
                return parse_idx(file, str(path))
            with gzip.open(file) as stream:
                return parse_idx(stream, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="fetch the file again") from error


def _find_mnist() -> Path:
    roots = [Path("data"), Path("../shared/data")]
    if configured := os.environ.get("NEXUS_DATA"):
        roots.insert(0, Path(configured))
    for root in roots:
        if (root / "mnist").is_dir():
            return root / "mnist"
    places = ", ".join(str(root.absolute() / "mnist") for root in roots)
    raise DataError(
        f"MNIST was not found; looked in {places}",
        hint="put its four IDX files (plain or .gz) there, or set NEXUS_DATA",
    )


def _from_directory(directory: Path, name: str) -> DataSet:
    parts = [_part(directory, part) for part in _PARTS]
    arrays = [_read_idx(path) for path in parts]
    for images, labels, path in ((*arrays[:2], parts[1]), (*arrays[2:], parts[3])):
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{path}: labels are {labels.dtype}{list(labels.shape)}, not integers")
        if images.ndim < 2 or len(images) != len(labels):
            raise DataError(f"{path}: {len(labels)} labels for images {list(images.shape)}")
        if not len(labels) or labels.min() < 0:
            raise DataError(f"{path}: there must be labels, and none below 0")
    train_x, train_y, test_x, test_y = arrays
    return DataSet(
        name, _unit(train_x), train_y.astype(np.int64), _unit(test_x), test_y.astype(np.int64)
    )


def _part(directory: Path, part: str) -> Path:
    stem, kind = part.rsplit("-", 1)
    names = [f"{stem}{sep}{kind}-ubyte{end}" for sep in "-." for end in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise DataError(
        f"{directory} has no {names[0]} (plain or .gz)",
        hint=f"a data set is four files: {', '.join(f'{p}-ubyte' for p in _PARTS)}",
    )


def _unit(pixels: np.ndarray) -> np.ndarray:
    """Bytes become float32 from 0 to 1; other numbers become float32 as they are."""
    floats = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        floats /= np.float32(255)
    return floats


def _digits() -> DataSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            'the data set "digits" comes with scikit-learn, which is not installed',
            hint="pip install scikit-learn",
        ) from error
    bunch: Any = load_digits()
    images = (np.asarray(bunch.images) / 16).astype(np.float32)
    labels = np.asarray(bunch.target).astype(np.int64)
    mixed = order(0, 0, len(labels))
    cut = len(labels) - len(labels) // 5 - 1
    train, test = mixed[:cut], mixed[cut:]
    return DataSet("digits", images[train], labels[train], images[test], labels[test])


def _shape(dims: Sequence[int | str]) -> str:
    return "x".join(map(str, dims)) or "scalar"
