"""From a chain of layers to Relax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tvm import relax, tirx

from nexus_compiler.frontend.builder.layers import Emitter, Randomness
from nexus_compiler.frontend.graph import CapturedGraph, Source
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec

if TYPE_CHECKING:
    from nexus_compiler.frontend.builder.builder import GraphBuilder


class Variables:
    """Relax variables for tensor specs, with one TIR variable for each name of a dimension."""

    def __init__(self) -> None:
        self._dims: dict[str, tirx.Var] = {}

    def tensor(self, spec: TensorSpec) -> relax.Var:
        """A Relax variable of the dtype and shape of `spec`."""
        dims = [
            self._dims.setdefault(dim, tirx.Var(dim, "int64")) if isinstance(dim, str) else dim
            for dim in spec.shape
        ]
        return relax.Var(_identifier(spec.name), relax.TensorType(dims, spec.dtype))


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def parameter_specs(builder: GraphBuilder) -> tuple[TensorSpec, ...]:
    """The weights as tensor specs, in the order of the layers."""
    specs = builder.parameter_specs()
    return tuple(TensorSpec(name, "float32", spec.shape) for name, spec in specs.items())


def forward(
    builder: GraphBuilder,
    block: relax.BlockBuilder,
    value: relax.Var,
    parameters: Mapping[str, relax.Expr],
    *,
    randomness: Randomness | None = None,
    steps: int | None = None,
) -> relax.Var:
    """Emit the first `steps` layers (all by default) on `value`; `randomness` makes it training."""
    for index, step in enumerate(builder.steps[:steps]):
        own = {name.removeprefix(f"{step.name}."): parameters[name] for name in step.parameters()}
        value = step.layer.emit(Emitter(block, own, index, randomness), value, step.shape)
    return value


def inference_graph(builder: GraphBuilder, function: str = "main") -> CapturedGraph:
    """The network for inference: dropout is the identity."""
    source = builder.features
    specs = parameter_specs(builder)
    block, variables = relax.BlockBuilder(), Variables()
    value = variables.tensor(source)
    weights = {spec.name: variables.tensor(spec) for spec in specs}
    with block.function(function, [value, *weights.values()]):
        with block.dataflow():
            result = forward(builder, block, value, weights)
            output = block.emit_output(relax.Tuple([result]))
        block.emit_func_output(output)
    spec = FunctionSpec(
        name=function,
        inputs=(source,),
        outputs=(TensorSpec("output", "float32", builder.shape),),
        parameters=tuple(weights),
    )
    return CapturedGraph(
        module=block.get(),
        signature=Signature((spec,), specs),
        params=builder.parameters(),
        source=Source("graph-builder", "GraphBuilder"),
    )
