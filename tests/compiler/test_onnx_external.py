"""Weights in files of their own: mapped, never copied, and only from the model's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import execute, floats, single

from nexus_compiler.frontend.onnx import capture
from nexus_compiler.pipeline import CompileOptions, compile
from nexus_compiler.store.local import LocalStore
from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import ArtifactError, CaptureError


def table(rows: int, place: dict[str, str], dtype: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A model that takes rows of a table of 1024 columns, which is at `place`."""
    weights = onnx.TensorProto(name="w", data_type=dtype, dims=[rows, 1024])
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        weights.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        "table",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", dtype, ["n", 1024])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def saved(folder: Path, proto: onnx.ModelProto, size: int | None = None) -> Path:
    """The model in `folder`, beside a sparse file of `size` bytes."""
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    if size is not None:
        with (folder / "weights.bin").open("wb") as file:
            file.truncate(size)
    return path


def test_they_are_read_in_place(tmp_path: Path) -> None:
    """As they are in memory, wherever they begin in the file."""
    weights = [floats(40, 30), floats(30, seed=1).astype("float16").astype("float32")]
    proto, feeds = single("Gemm", [floats(2, 40)], weights)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph = capture(path)
    (tmp_path / "whole").mkdir()
    onnx.save(onnx.load(path), tmp_path / "whole" / "model.onnx")
    whole = capture(tmp_path / "whole" / "model.onnx")
    assert graph.params_digest() == whole.params_digest()
    np.testing.assert_array_equal(execute(graph, feeds)[0], execute(whole, feeds)[0])
    assert all(not array.flags.owndata for array in graph.params.values())


def test_weights_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    rows = 2_250_000_000 // 4096
    path = saved(tmp_path, table(rows, {"location": "weights.bin"}), rows * 4096)
    (weights,) = capture(path).params.values()
    assert weights.nbytes > 2**31
    assert weights[-1, -1] == 0


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from nexus_compiler.pipeline import CompileOptions, compile
from nexus_compiler.store.local import LocalStore

small, large, folder = map(Path, sys.argv[1:])
options = CompileOptions(store=LocalStore(folder / "store"), jobs=1)
compile(small, options=options).save(folder / "small.nxa")  # loads whatever is needed
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
used = int(status["VmData"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 40 * 2**20,) * 2)
compile(large, options=options).save(folder / "large.nxa")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of its own")
def test_they_are_never_copied_in_memory(tmp_path: Path) -> None:
    """96 MiB of weights are captured, compiled and saved with 40 MiB to spare."""
    paths = list[Path]()
    for name, rows in {"small": 8, "large": 24 * 1024}.items():
        (tmp_path / name).mkdir()
        proto = table(rows, {"location": "weights.bin"})
        paths.append(saved(tmp_path / name, proto, rows * 4096))
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, *map(str, paths), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (weights,) = Artifact.open(tmp_path / "large.nxa").params().values()
    assert weights.shape == (24 * 1024, 1024)


def test_a_file_that_changes_before_saving_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, table(8, {"location": "weights.bin"}), 8 * 4096)
    artifact = compile(path, options=CompileOptions(store=LocalStore(tmp_path / "store"), jobs=1))
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(ArtifactError, match="has changed since it was compiled"):
        artifact.save(tmp_path / "model.nxa")
    assert not (tmp_path / "model.nxa").exists()


OUTSIDE = {
    "above": "../secret.bin",
    "above and back": "../secret/../secret.bin",
    "absolute": "{root}/secret.bin",
    "absolute inside": "{root}/model/weights.bin",
    "a link": "link.bin",
    "through a linked folder": "folder/secret.bin",
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_files_outside_of_the_folder_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8 * 4096))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "folder").symlink_to(tmp_path)
    location = OUTSIDE[kind].format(root=tmp_path)
    path = saved(folder, table(8, {"location": location}), 8 * 4096)
    with pytest.raises(CaptureError, match="outside of the model's own folder"):
        capture(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for location in ("pipe", ".", "", "nothing.bin", "circle", "a\0b"):
        with pytest.raises(CaptureError, match="tensor 'w'.*cannot be read"):
            capture(saved(tmp_path, table(8, {"location": location})))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"offset": "-1"}, "offset '-1'"),
        ({"length": "many"}, "length 'many'"),
        ({"offset": "9" * 30}, "no number of bytes"),
        ({"length": str(9 * 4096)}, "has 32768"),
        ({"offset": "4096"}, "32768 bytes, but 28672 are stored"),
        ({"length": "0"}, "but 0 are stored"),
    ],
)
def test_places_that_do_not_fit(place: dict[str, str], said: str, tmp_path: Path) -> None:
    path = saved(tmp_path, table(8, {"location": "weights.bin", **place}), 8 * 4096)
    with pytest.raises(CaptureError, match=said) as caught:
        capture(path)
    assert "tensor 'w'" in caught.value.message
    assert caught.value.hint


def test_a_model_in_memory_has_no_folder() -> None:
    with pytest.raises(CaptureError, match=r"'w' are in another file\nhint: give the model's path"):
        capture(table(8, {"location": "weights.bin"}))
