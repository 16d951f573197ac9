"""One contender of `incremental.py` in a process of its own: a line is an edit, an answer its cost.

What is timed goes from the edited model to the first result: from the file for Nexus, ONNX Runtime
and TVM; for PyTorch from the module, for JAX from the function, whose making is not timed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
Ready = Callable[[dict[str, Any]], Run]
"""Makes ready what is not timed, and returns what is."""


def nexus() -> Ready:
    """A session, or where there is none the functions, which share the memory of the process."""
    import nexus_compiler

    if hasattr(nexus_compiler, "Session"):
        session = nexus_compiler.Session()
        return lambda edit: lambda: session.load(edit["path"])(_input(edit))

    import nexus_runtime

    return lambda edit: (
        lambda: nexus_runtime.load(nexus_compiler.compile(edit["path"]))(_input(edit))
    )


def torch_compile() -> Ready:
    """`torch.compile` with its caches on disk, as they are by default."""
    import torch

    def ready(edit: dict[str, Any]) -> Run:
        module, x = _module(edit), torch.from_numpy(_input(edit))

        def run() -> Any:
            with torch.no_grad():
                return torch.compile(module)(x)

        return run

    return ready


def jax() -> Ready:
    """`jax.jit` with the persistent cache, which the environment has named."""
    import jax
    import jax.numpy as jnp

    jnp.zeros(1)  # the backend is opened by the first array

    def ready(edit: dict[str, Any]) -> Run:
        import jax_port
        import torch

        x = _input(edit)
        function, weights = jax_port.port(_module(edit), (torch.from_numpy(x),))
        return lambda: jax.block_until_ready(jax.jit(function)(weights, jnp.asarray(x)))[0]

    return ready


def onnxruntime() -> Ready:
    """A session with its defaults: it interprets, and compiles nothing."""
    import onnxruntime

    def run(edit: dict[str, Any]) -> Any:
        session = onnxruntime.InferenceSession(edit["path"], providers=["CPUExecutionProvider"])
        return session.run(None, {"x": _input(edit)})[0]

    return lambda edit: lambda: run(edit)


def tvm() -> Ready:
    """TVM's frontend and default pipeline; it keeps nothing."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx
    from tvm.target import codegen

    target = tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})

    def run(edit: dict[str, Any]) -> Any:
        x = _input(edit)
        module = from_onnx(onnx.load(edit["path"]), shape_dict={"x": list(x.shape)})
        with target:
            module = relax.get_default_pipeline(target)(module)
        machine = relax.VirtualMachine(relax.build(module, target), tvm.cpu())
        made = machine["main"](tvm.runtime.tensor(x))
        return (made if hasattr(made, "numpy") else made[0]).numpy()

    return lambda edit: lambda: run(edit)


CONTENDERS: dict[str, Callable[[], Ready]] = {
    "nexus": nexus,
    "torch.compile": torch_compile,
    "jax": jax,
    "onnxruntime": onnxruntime,
    "tvm": tvm,
}


def _input(edit: dict[str, Any]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(edit["shape"]).astype(np.float32)


def _module(edit: dict[str, Any]) -> Any:
    import edits

    return edits.MODELS[edit["model"]].module(edit["width"])


def main() -> None:
    """Serve the lines of stdin; argv is the name and when the parent began the process."""
    name, began = sys.argv[1], float(sys.argv[2])
    answers, sys.stdout = sys.stdout, sys.stderr  # the peers' talk is not an answer
    ready = CONTENDERS[name]()
    start = time.time() - began
    for line in sys.stdin:
        edit = json.loads(line)
        try:
            run = ready(edit)
            begin = time.perf_counter()
            output = np.asarray(run())
            seconds = time.perf_counter() - begin
            answer = {"start": start, "seconds": seconds, "output": output.ravel().tolist()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
