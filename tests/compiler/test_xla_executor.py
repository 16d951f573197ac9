"""The executor for StableHLO: damaged and foreign modules, missing packages, threads."""

from __future__ import annotations

import sys
import threading

import msgspec
import numpy as np
import pytest
from xla_support import build, case, floats, module_of, signature_of

from nexus_runtime.errors import ArtifactError, DeviceError, TargetError
from nexus_runtime.executors import jax_export
from nexus_runtime.executors.jax_export import open_module


def square(x):
    return x * x


def test_missing_jax_has_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(DeviceError) as caught:
        jax_export.import_jax(("cpu",))
    assert caught.value.hint == "pip install nexus-compiler[xla]"
    with pytest.raises(TargetError, match="need JAX"):
        build(module_of({"main": case(square, floats(2))}), "main")


@pytest.fixture(scope="module")
def module() -> bytes:
    return build(module_of({"main": case(square, floats(2, 3))}), "main")


def test_damaged_modules_are_refused(module: bytes) -> None:
    signature = signature_of("main")
    middle = len(module) // 2
    flipped = module[:middle] + bytes([module[middle] ^ 1]) + module[middle + 1 :]
    for damaged in (b"", b"nonsense", module[:-5], flipped):
        with pytest.raises(ArtifactError, match="damaged"):
            open_module(damaged, signature, num_threads=None)


def test_modules_must_offer_their_signature(module: bytes) -> None:
    with pytest.raises(ArtifactError, match="lacks the function 'mein'") as caught:
        open_module(module, signature_of("mein"), num_threads=None)
    assert "main" in caught.value.hint


def test_modules_of_the_future_are_refused(module: bytes) -> None:
    fields = msgspec.msgpack.decode(module) | {"format": 2}
    with pytest.raises(ArtifactError, match="format 2"):
        open_module(msgspec.msgpack.encode(fields), signature_of("main"), num_threads=None)


def test_blobs_that_jax_cannot_read_are_refused() -> None:
    module = jax_export.pack(["cpu"], {"main": "blob"}, {"blob": b"no flatbuffer at all"})
    executor = open_module(module, signature_of("main"), num_threads=None)
    with pytest.raises(ArtifactError, match="cannot read the blob"):
        executor.run("main", [])


def test_modules_for_absent_devices_are_refused() -> None:
    module = jax_export.pack(["tpu"], {"main": "blob"}, {"blob": b""})
    with pytest.raises(DeviceError, match="built for tpu"):
        open_module(module, signature_of("main"), num_threads=None)


def test_an_executor_serves_many_threads(module: bytes) -> None:
    executor = open_module(module, signature_of("main"), num_threads=None)
    inputs = [floats(2, 3, seed=seed) for seed in range(8)]
    outputs: list = [None] * len(inputs)

    def work(position: int) -> None:
        for _ in range(5):
            (outputs[position],) = executor.run("main", [inputs[position]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for array, output in zip(inputs, outputs):
        np.testing.assert_array_equal(output, array * array)
