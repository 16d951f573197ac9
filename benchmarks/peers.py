"""What Nexus is held against: each peer makes a model ready and returns a call without arguments.

A call runs the model once on fixed inputs and returns its outputs as NumPy arrays or something that
`numpy.asarray` takes; conversion is not timed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Call = Callable[[], Sequence[Any]]
LARGEST_FOR_IREE = 200 << 20


def onnxruntime(model: Path, inputs: Mapping[str, np.ndarray], *, threads: int) -> Call:
    """ONNX Runtime with inputs and outputs bound, so that it copies nothing."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def call() -> Sequence[Any]:
        session.run_with_iobinding(binding)
        return _Outputs(binding.get_outputs)

    return call


class _Outputs(Sequence[Any]):
    """Outputs that are copied when they are looked at, not in the call."""

    def __init__(self, get: Callable[[], Sequence[Any]]) -> None:
        self._get = get

    def __len__(self) -> int:
        return len(self._get())

    def __getitem__(self, index: Any) -> Any:
        return self._get()[index].numpy()


def torch_eager(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> Call:
    """PyTorch as it is."""

    def call() -> Sequence[Any]:
        with torch.inference_mode():
            return _several(module(*args))

    return call


def torch_compile(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> Call:
    """`torch.compile` with weights frozen, which lets it pack them."""
    import torch._inductor.config

    torch._dynamo.reset()
    torch._inductor.config.freezing = True
    compiled = torch.compile(module)

    def call() -> Sequence[Any]:
        with torch.no_grad():
            return _several(compiled(*args))

    return call


def jax_jit(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> Call:
    """The same operators in JAX, jitted; see `jax_port`."""
    import jax
    import jax.numpy as jnp
    import jax_port

    function, weights = jax_port.port(module, args)
    given = [jnp.asarray(arg.numpy()) for arg in args]
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(weights, *given))


def iree(model: Path, inputs: Mapping[str, np.ndarray], *, threads: int) -> Call:
    """IREE for this machine's CPU, inputs on its device.

    Raises:
        ValueError: the file is larger than the importer's text form can reasonably be.
    """
    from iree import compiler, runtime

    if model.stat().st_size > LARGEST_FOR_IREE:
        raise ValueError(f"not tried: {model.stat().st_size >> 20} MiB would be imported as text")
    with tempfile.TemporaryDirectory() as directory:
        given, text = Path(directory) / "model.onnx", Path(directory) / "model.mlir"
        _fix_sizes(model, inputs, given)
        command = [sys.executable, "-m", "iree.compiler.tools.import_onnx"]
        command += [str(given), "-o", str(text), "--opset-version", "17"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1])
        data = compiler.compile_file(
            str(text),
            input_type="onnx",
            target_backends=["llvm-cpu"],
            extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"],
        )
    driver = runtime.get_driver("local-sync" if threads == 1 else "local-task")
    config = runtime.Config(device=driver.create_default_device())
    loaded = runtime.VmModule.copy_buffer(config.vm_instance, data)
    names = [name for name in loaded.function_names if not name.startswith("__")]
    main = next(name for name in names if not name.endswith("$async"))
    function = runtime.load_vm_module(loaded, config)[main]
    arguments = [runtime.asdevicearray(config.device, array) for array in inputs.values()]
    return lambda: _several(function(*arguments))


def _fix_sizes(model: Path, inputs: Mapping[str, np.ndarray], path: Path) -> None:
    """Write `model` with the sizes of `inputs` for its open dimensions."""
    import onnx

    loaded = onnx.load(str(model))
    for given in loaded.graph.input:
        for dim, size in zip(given.type.tensor_type.shape.dim, inputs[given.name].shape):
            dim.dim_value = size
    onnx.save(loaded, str(path))


def vanilla_tvm(model: Path, inputs: Mapping[str, np.ndarray], *, threads: int) -> Call:
    """TVM as it comes: its ONNX frontend and its default pipeline for the CPU."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx
    from tvm.target import codegen

    shapes = {name: list(array.shape) for name, array in inputs.items()}
    module = from_onnx(onnx.load(str(model)), shape_dict=shapes)
    target = tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    with target:
        module = relax.get_default_pipeline(target)(module)
    machine = relax.VirtualMachine(relax.build(module, target), tvm.cpu())
    given = [tvm.runtime.tensor(array) for array in inputs.values()]

    def call() -> Sequence[Any]:
        return [output.numpy() for output in _several(machine["main"](*given))]

    return call


def _several(outputs: Any) -> Sequence[Any]:
    return (outputs,) if hasattr(outputs, "shape") else tuple(outputs)
