"""The format between Python and the emulated process, and what is said when a tool is missing."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.extra.numpy as npst
import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_compiler import targets
from nexus_compiler.codegen.llvm import emulate, slim_runtime, tensor_file
from nexus_compiler.targets import Check, TargetSpec
from nexus_runtime.errors import InputError, InternalError, TargetError
from nexus_runtime.signature import FunctionSpec
from nexus_runtime.tensors import ALIGNMENT, dtype_of

FUNCTION = FunctionSpec("main", (), ())


def round_trip(arrays: list[np.ndarray]) -> list[np.ndarray]:
    stream = io.BytesIO()
    tensor_file.write(stream, arrays)
    stream.seek(0)
    return tensor_file.read(stream)


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    dtype = dtype_of(draw(st.sampled_from(sorted(tensor_file.CODES))))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    seed = draw(st.integers(0, 2**32 - 1))
    # Any bytes: NaN with a payload and minus zero have to come through as well.
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    if dtype == np.bool_:
        raw %= 2
    return raw.view(dtype).reshape(shape)


@given(st.lists(tensors(), max_size=4))
def test_arrays_come_back_bit_by_bit(arrays: list[np.ndarray]) -> None:
    found = round_trip(arrays)
    assert [(a.dtype, a.shape, a.tobytes()) for a in found] == [
        (a.dtype, a.shape, a.tobytes()) for a in arrays
    ]
    assert all(a.ctypes.data % ALIGNMENT == 0 for a in found if a.size)


@given(tensors(), st.integers(min_value=0))
def test_a_file_that_is_cut_short_is_refused(array: np.ndarray, place: int) -> None:
    stream = io.BytesIO()
    tensor_file.write(stream, [array])
    whole = stream.getvalue()
    with pytest.raises(InternalError, match="tensor file"):
        tensor_file.read(io.BytesIO(whole[: place % len(whole)]))


def test_the_format_is_the_documented_one() -> None:
    stream = io.BytesIO()
    tensor_file.write(stream, [np.array([[1, -2]], np.int16)])
    head = b"NXTENS01" + struct.pack("<QBBHIqq", 1, 0, 16, 1, 2, 1, 2)
    assert stream.getvalue() == head + struct.pack("<hh", 1, -2)


def test_the_codes_are_those_of_dlpack() -> None:
    tvm_ffi = pytest.importorskip("tvm_ffi")
    for name, code in tensor_file.CODES.items():
        dtype = tvm_ffi.dtype(name)
        assert (dtype.type_code, dtype.bits) == (code, dtype_of(name).itemsize * 8), name


def test_strides_and_byte_order_are_undone() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T[::-1]
    (found,) = round_trip([array])
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


def test_a_dtype_without_code_is_refused() -> None:
    with pytest.raises(InputError, match="int4"):
        round_trip([np.zeros(2, ml_dtypes.int4)])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"NXTENS99" + bytes(8), id="another version"),
        pytest.param(b"NXTENS01" + bytes(8) + b"x", id="goes on"),
        pytest.param(b"NXTENS01" + struct.pack("<QBBHI", 1, 3, 64, 1, 0), id="dtype"),
        pytest.param(b"NXTENS01" + struct.pack("<QBBHI", 1, 2, 32, 4, 0), id="lanes"),
        pytest.param(b"NXTENS01" + struct.pack("<QBBHIq", 1, 2, 32, 1, 1, -1), id="shape"),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InternalError, match="tensor file"):
        tensor_file.read(io.BytesIO(data))


@pytest.fixture
def target() -> TargetSpec:
    return targets.load("cortex-a72")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory of programs, empty; its `lib` is the sysroot's."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def with_tools(target: TargetSpec, tools: Path, *programs: str) -> TargetSpec:
    for name in programs:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    (tools / "lib").mkdir()
    (tools / "lib" / "libstdc++.so.6").touch()
    check = msgspec.structs.replace(target.check, sysroot=str(tools))
    return msgspec.structs.replace(target, check=check)


def test_other_targets_need_nothing_and_are_not_run(target: TargetSpec) -> None:
    native = msgspec.structs.replace(target, check=Check(level="run"))
    assert emulate.needs(native) == []
    with pytest.raises(TargetError, match="has no emulator"):
        emulate.run(b"", FUNCTION, [], native)


def test_needs_say_what_is_missing_and_which_package_has_it(
    target: TargetSpec, tools: Path
) -> None:
    missing = {need.what: need.cure for need in emulate.needs(target) if not need.found}
    assert "Debian: qemu-user" in missing["emulator qemu-aarch64"]
    assert "Debian: g++-aarch64-linux-gnu" in missing["C++ compiler aarch64-linux-gnu-g++"]
    assert "NEXUS_WHEELS" in missing["TVM's runtime for aarch64"]


def test_a_missing_emulator_is_named_with_its_package(target: TargetSpec, tools: Path) -> None:
    with pytest.raises(TargetError, match="qemu-aarch64") as error:
        emulate.run(b"", FUNCTION, [], target)
    assert "qemu-user" in error.value.hint
    assert "nexusc doctor" in error.value.hint


def test_a_missing_compiler_is_named_with_its_package(target: TargetSpec, tools: Path) -> None:
    with pytest.raises(TargetError, match="aarch64-linux-gnu-g") as error:
        emulate.run(b"", FUNCTION, [], with_tools(target, tools, "qemu-aarch64"))
    assert "g++-aarch64-linux-gnu" in error.value.hint


def test_a_missing_wheel_is_named_with_the_cure(
    target: TargetSpec, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools / "wheels").mkdir()
    monkeypatch.setenv("NEXUS_WHEELS", str(tools / "wheels"))
    complete = with_tools(target, tools, "qemu-aarch64", "aarch64-linux-gnu-g++")
    with pytest.raises(TargetError, match=r"apache-tvm==.* for aarch64") as error:
        emulate.run(b"", FUNCTION, [], complete)
    assert "NEXUS_WHEELS" in error.value.hint
    assert "pip download" in error.value.hint
    assert not list(slim_runtime.directory("aarch64").glob("*.so"))


class FakePip:
    """Stands in for `pip download`: makes wheels that hold `members` with `content`."""

    def __init__(self, content: bytes) -> None:
        self.content, self.calls = content, 0
        self.members = [library.member for library in slim_runtime.LIBRARIES]

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / f"fake{self.calls}.whl", "w") as wheel:
            for member in self.members:
                wheel.writestr(member, self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(tools: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(b"a library")
    monkeypatch.setattr(slim_runtime.subprocess, "run", fake)
    return fake


def test_a_library_with_another_hash_is_refused(pip: FakePip) -> None:
    with pytest.raises(TargetError, match=r"libtvm_runtime\.so .* has SHA-256"):
        slim_runtime.provide("aarch64")
    assert not slim_runtime.is_present("aarch64")


def test_libraries_of_unlisted_versions_are_recorded_and_kept(pip: FakePip) -> None:
    place = slim_runtime.provide("riscv64")
    assert slim_runtime.provide("riscv64") == place
    assert pip.calls == len(slim_runtime.LIBRARIES)
    record = (place / "libtvm_ffi.so.sha256").read_text()
    assert record == hashlib.sha256(b"a library").hexdigest()
    kept = {"libtvm_runtime.so", "libtvm_ffi.so", "lock"}
    assert {path.name for path in place.iterdir() if path.suffix != ".sha256"} == kept


@pytest.mark.parametrize("name", ["libtvm_ffi.so", "libtvm_ffi.so.sha256"])
def test_a_damaged_library_is_fetched_again(pip: FakePip, name: str) -> None:
    place = slim_runtime.provide("riscv64")
    (place / name).write_bytes(b"\xff")
    assert not slim_runtime.is_present("riscv64")
    slim_runtime.provide("riscv64")
    assert pip.calls == len(slim_runtime.LIBRARIES) + 1
    assert (place / "libtvm_ffi.so").read_bytes() == b"a library"


def test_a_wheel_without_the_library_is_refused(pip: FakePip) -> None:
    pip.members = []
    with pytest.raises(TargetError, match=r"fake1\.whl holds no tvm/lib/libtvm_runtime\.so"):
        slim_runtime.provide("aarch64")


def test_many_at_once_fetch_once(pip: FakePip) -> None:
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(slim_runtime.provide, ["riscv64"] * 8))
    assert len(set(places)) == 1
    assert pip.calls == len(slim_runtime.LIBRARIES)
