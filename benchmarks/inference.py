"""Inference against ONNX Runtime, PyTorch, JAX, IREE and TVM: outputs checked, calls in turns."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import common

GIVEN = common.arguments(__doc__)

import networks  # noqa: E402
import numpy as np  # noqa: E402
import peers  # noqa: E402
import torch  # noqa: E402

import nexus_compiler  # noqa: E402
import nexus_runtime  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import zoo  # noqa: E402

common.quiet()
torch.set_num_threads(GIVEN.threads)
Prepared = tuple[common.Call, Mapping[str, Callable[[], common.Call]]]
Arrays = dict[str, np.ndarray]
# TVM's default pipeline for the CPU schedules nothing: it is a hundred times slower than the rest.
SMALL = 1_000_000


def from_torch(
    make: Callable[[], torch.nn.Module], shapes: dict[str, tuple[int, ...]], *, dynamic: int = 0
) -> Callable[[], Prepared]:
    """A network of PyTorch, as itself and as ONNX; `dynamic` is an open batch's largest size."""

    def prepare() -> Prepared:
        torch.manual_seed(0)
        module = make().eval()
        arrays = {name: _random(name, shape) for name, shape in shapes.items()}
        args = tuple(torch.from_numpy(array) for array in arrays.values())
        with tempfile.TemporaryDirectory() as directory:
            model = _export(module, args, arrays, Path(directory) / "model.onnx", dynamic)
            own = _nexus(model, arrays, fixed=not dynamic)
            if dynamic:
                fixed = _nexus(model, arrays, fixed=True)
                return own, {"nexus, fixed batch": lambda: fixed}
            found = _onnx_peers(model, arrays, small=_size(module) < SMALL)
            # The file will be gone when the peers are asked for.
            kept = {name: _now(call) for name, call in found.items()}
        return own, {
            **kept,
            "torch eager": lambda: peers.torch_eager(module, args),
            "torch.compile": lambda: peers.torch_compile(module, args),
            "jax": lambda: peers.jax_jit(module, args),
        }

    return prepare


def _size(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _now(make: Callable[[], common.Call]) -> Callable[[], common.Call]:
    """`make`, called while the file is there; what it raises is raised when it is asked for."""
    try:
        call = make()
    except Exception as error:
        failure = error

        def fail() -> common.Call:
            raise failure

        return fail
    return lambda: call


def _export(
    module: torch.nn.Module,
    args: tuple[torch.Tensor, ...],
    arrays: Arrays,
    path: Path,
    dynamic: int,
) -> Path:
    if dynamic:
        # A batch of 1 would be taken for a constant.
        args = tuple(torch.cat((arg[:1], arg[:1])) for arg in args)
    batch = torch.export.Dim("n", min=1, max=dynamic or 2)
    torch.onnx.export(
        module,
        args,
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=list(arrays),
        dynamic_shapes=tuple({0: batch} for _ in args) if dynamic else None,
    )
    return path


def from_file(find: Callable[[], Path], arrays: Arrays) -> Callable[[], Prepared]:
    """An ONNX file."""

    def prepare() -> Prepared:
        model = find()
        return _nexus(model, arrays, fixed=True), _onnx_peers(model, arrays, small=False)

    return prepare


def _onnx_peers(
    model: Path, arrays: Arrays, *, small: bool
) -> dict[str, Callable[[], common.Call]]:
    threads = GIVEN.threads
    found: dict[str, Callable[[], common.Call]] = {
        "onnxruntime": lambda: peers.onnxruntime(model, arrays, threads=threads),
        "iree": lambda: peers.iree(model, arrays, threads=threads),
    }
    if small:
        found["tvm"] = lambda: peers.vanilla_tvm(model, arrays, threads=threads)
    return found


def _nexus(model: Path, arrays: Arrays, *, fixed: bool) -> common.Call:
    """`fixed`: compiled for the sizes of `arrays`; else for those that the file leaves open."""
    shapes = {name: array.shape for name, array in arrays.items()}
    artifact = nexus_compiler.compile(model, shapes=shapes if fixed else None)
    module = nexus_runtime.load(artifact, num_threads=GIVEN.threads)
    # As ONNX Runtime, whose inputs and outputs are bound, too.
    bound = module.bind(arrays)
    outputs = list(bound.outputs.values())

    def call() -> list[np.ndarray]:
        bound.run()
        return outputs

    return call


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(0)
    if name == "token":
        return generator.integers(0, 50257, shape)
    return generator.standard_normal(shape, np.float32)


def quantized() -> Path:
    """ResNet-50 in int8 (QDQ), calibrated on random images."""
    from onnxruntime import quantization as q

    torch.manual_seed(0)
    # It lives until the process ends: ONNX Runtime and IREE read it when they are made ready.
    place = Path(tempfile.mkdtemp(prefix="nexus-bench-"))
    module, image = networks.resnet50().eval(), torch.randn(1, 3, 224, 224)
    model = _export(module, (image,), {"x": image.numpy()}, place / "float.onnx", 0)

    class Images(q.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = [{"x": _random("x", (1, 3, 224, 224))} for _ in range(2)]

        def get_next(self) -> Arrays | None:  # type: ignore[override]
            return self._left.pop() if self._left else None

    q.quantize_static(
        str(model),
        str(place / "int8.onnx"),
        Images(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )
    return place / "int8.onnx"


def _image(*shape: int) -> Arrays:
    return {"x": _random("x", shape)}


def workloads() -> list[common.Workload]:
    """All rows, in the order of the page."""
    found: list[common.Workload] = []

    def add(
        name: str, prepare: Callable[[], Prepared], goal: float = 1.0, bound: float = 0.0
    ) -> None:
        found.append(common.Workload(name, prepare, goal, bound))

    for n, goal in ((1, 1.2), (32, 1.2), (128, 1.1)):
        mlp = from_torch(lambda: networks.mlp(784, 256, 10), {"x": (n, 784)})
        add(f"mlp, batch {n}", mlp, goal)
    for n in (1, 32):
        add(f"lenet, batch {n}", from_torch(networks.lenet, {"x": (n, 1, 28, 28)}), 1.2)
    for n, goal in ((1, 1.1), (8, 1.15)):
        add(f"resnet-50, batch {n}", from_torch(networks.resnet50, {"x": (n, 3, 224, 224)}), goal)
    add("mobilenet-v3, batch 1", from_torch(networks.mobilenet, {"x": (1, 3, 224, 224)}), 1.2)
    add("bert layer, length 128", from_torch(networks.Encoder, {"x": (1, 128, 768)}), 1.2)
    cache = {"token": (1, 1), "cache": (24, 1, 12, 127, 64)}
    add("gpt-2 decode, past 127", from_torch(networks.Decoder, cache), 1.2)
    for name, model, arrays in (
        ("pp-ocr detection, 640 x 640", "ocr-detect", _image(1, 3, 640, 640)),
        ("pp-ocr classifier", "ocr-orient", _image(1, 3, 48, 192)),
        ("magika", "magika", {"bytes": np.random.default_rng(0).integers(0, 256, (1, 2048), "i4")}),
    ):
        add(name, from_file(lambda model=model: zoo.fetch(model), arrays), 1.1)
    # A value that rounds the other way is a whole step off, and more in the layers that follow.
    add("resnet-50 int8, batch 1", from_file(quantized, _image(1, 3, 224, 224)), bound=0.05)
    for n in (1, 8, 64):
        shape = {"x": (n, 784)}
        open_mlp = from_torch(lambda: networks.mlp(784, 256, 10), shape, dynamic=64)
        # An open batch may cost 10 % of what the batch known beforehand takes.
        add(f"mlp, open batch, {n}", open_mlp, 1 / 1.1)
        open_lenet = from_torch(networks.lenet, {"x": (n, 1, 28, 28)}, dynamic=64)
        add(f"lenet, open batch, {n}", open_lenet, 1 / 1.1)
    return found


if __name__ == "__main__":
    common.report("inference", common.measure(workloads(), GIVEN), GIVEN)
