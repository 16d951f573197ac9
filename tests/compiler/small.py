"""Small graphs that several tests compile."""

from __future__ import annotations

import numpy as np
from tvm import relax, tirx

from nexus_compiler.frontend.graph import CapturedGraph
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec


def mlp(*, features: int = 12, hidden: int = 8, prefix: str = "", seed: int = 0) -> CapturedGraph:
    """relu(x @ w1) @ w2 for any batch; `prefix` renames everything that has a name."""
    random = np.random.default_rng(seed)
    params = {
        f"{prefix}w1": random.standard_normal((features, hidden)).astype(np.float32),
        f"{prefix}w2": random.standard_normal((hidden, features)).astype(np.float32),
    }
    batch = tirx.Var(f"{prefix}n", "int64")
    x = relax.Var(f"{prefix}x", relax.TensorType((batch, features), "float32"))
    weights = [relax.Var(k, relax.TensorType(v.shape, "float32")) for k, v in params.items()]
    block = relax.BlockBuilder()
    with block.function("main", [x, *weights]):
        with block.dataflow():
            hidden_value = block.emit(relax.op.nn.relu(relax.op.matmul(x, weights[0])))
            result = block.emit(relax.op.matmul(hidden_value, weights[1]))
            output = block.emit_output(relax.Tuple([result]))
        block.emit_func_output(output)
    function = FunctionSpec(
        "main",
        (TensorSpec("x", "float32", ("n", features)),),
        (TensorSpec("y", "float32", ("n", features)),),
        tuple(params),
    )
    specs = tuple(TensorSpec(k, "float32", v.shape) for k, v in params.items())
    return CapturedGraph(block.get(), Signature((function,), specs), params)


def mlp_reference(graph: CapturedGraph, x: np.ndarray) -> np.ndarray:
    first, second = graph.params.values()
    return np.maximum(x @ first, 0) @ second
