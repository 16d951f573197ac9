"""From steps to Relax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tvm import relax, tirx

from nexus_compiler.frontend.builder.layers.base import Emitter, Randomness
from nexus_compiler.frontend.graph import CapturedGraph, Source
from nexus_compiler.ir.one_thread import one_thread
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


@dataclass(frozen=True)
class Forward:
    """What `forward` emitted.

    Attributes:
        tensors: every tensor by its first name.
        observed: in training, sums over samples by the full name of a weight that is not trained.
    """

    tensors: dict[str, relax.Var]
    observed: dict[str, relax.Expr] = field(default_factory=dict[str, Any])


def parameter_specs(builder: GraphBuilder) -> tuple[TensorSpec, ...]:
    """The weights as tensor specs, in the order of the layers."""
    specs = builder.parameter_specs()
    return tuple(TensorSpec(name, "float32", spec.shape) for name, spec in specs.items())


def forward(
    builder: GraphBuilder,
    block: relax.BlockBuilder,
    inputs: Mapping[str, relax.Var],
    parameters: Mapping[str, relax.Expr],
    *,
    randomness: Randomness | None = None,
) -> Forward:
    """Emit all layers on `inputs`; `randomness` makes it training."""
    made = Forward(dict(inputs))
    for index, step in enumerate(builder.steps):
        prefix = f"{step.owner}."
        own = {name.removeprefix(prefix): parameters[name] for name in step.parameters()}
        out = Emitter(block, own, index, randomness)
        values = [made.tensors[name] for name in step.inputs]
        made.tensors[step.name] = step.layer.emit(out, values, step.shapes)
        made.observed.update({f"{prefix}{name}": seen for name, seen in out.observed.items()})
    return made


@one_thread
def inference_graph(builder: GraphBuilder, function: str = "main") -> CapturedGraph:
    """The network for inference: dropout is the identity."""
    outputs = builder.outputs()
    specs = parameter_specs(builder)
    block, variables = relax.BlockBuilder(), Variables()
    inputs = {source.name: variables.tensor(source) for source in builder.sources}
    weights = {spec.name: variables.tensor(spec) for spec in specs}
    with block.function(function, [*inputs.values(), *weights.values()]):
        with block.dataflow():
            made = forward(builder, block, inputs, weights)
            results = [made.tensors[name] for name in builder.ends()]
            output = block.emit_output(relax.Tuple(results))
        block.emit_func_output(output)
    spec = FunctionSpec(function, builder.sources, outputs, tuple(weights))
    return CapturedGraph(
        module=block.get(),
        signature=Signature((spec,), specs),
        params=builder.shared_parameters(),
        source=Source("graph-builder", "GraphBuilder"),
        locations={name: step.location for step in builder.steps for name in step.parameters()},
    )
