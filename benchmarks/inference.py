"""Inference against ONNX Runtime, on networks that PyTorch exports and on real models."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common

GIVEN = common.arguments(__doc__)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from networks import lenet, mlp, resnet18  # noqa: E402

import nexus_compiler  # noqa: E402
import nexus_runtime  # noqa: E402
from nexus_compiler.verify import compare, reference  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import zoo  # noqa: E402


def export(module: torch.nn.Module, x: np.ndarray, path: Path) -> Path:
    """Write `module` as an ONNX file for inputs of the shape of `x`."""
    torch.onnx.export(
        module.eval(),
        (torch.from_numpy(x),),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["x"],
    )
    return path


def case(name: str, model: Path, x: np.ndarray) -> dict[str, object]:
    """Compile `model`, compare it with ONNX Runtime, and time both."""
    peer = reference.OnnxRuntime(model, num_threads=GIVEN.threads)
    key = peer.inputs[0]
    artifact = nexus_compiler.compile(model, shapes={key: x.shape})
    module = nexus_runtime.load(artifact, num_threads=GIVEN.threads)
    found, expected = module.run("main", {key: x}), peer.run({key: x})
    worst = max(compare.compare(found, expected), key=lambda one: one.max_rel)
    row = common.contest(
        name,
        {"nexus": lambda: module.run("main", {key: x}), "onnxruntime": lambda: peer.run({key: x})},
        GIVEN.rounds,
    )
    return row | {"max_rel": worst.max_rel}


def main() -> None:
    """Run all cases."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for batch in (1, 32, 128):
            x = floats(batch, 784)
            rows.append(case(f"mlp, batch {batch}", export(mlp(), x, Path(directory) / "m"), x))
        for batch in (1, 32):
            x = floats(batch, 1, 28, 28)
            rows.append(case(f"lenet, batch {batch}", export(lenet(), x, Path(directory) / "l"), x))
        x = floats(1, 3, 224, 224)
        rows.append(case("resnet-18", export(resnet18(), x, Path(directory) / "r"), x))
    rows.append(case("pp-ocr classifier", zoo.fetch("ocr-orient"), floats(1, 3, 48, 192)))
    rows.append(case("pp-ocr detection", zoo.fetch("ocr-detect"), floats(1, 3, 320, 320)))
    data = random.integers(0, 256, (1, 2048)).astype(np.int32)
    rows.append(case("magika", zoo.fetch("magika"), data))
    for row in rows:
        row.pop("max_rel") if not GIVEN.json else None
    common.report("inference", rows, GIVEN)


if __name__ == "__main__":
    main()
