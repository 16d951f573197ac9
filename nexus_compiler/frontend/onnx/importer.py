"""Walks an ONNX graph and builds the Relax function."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tvm import IRModule, relax, tirx

from nexus_compiler.frontend.graph import CapturedGraph
from nexus_compiler.frontend.onnx import (
    containers,
    faults,
    functions,
    host,
    inputs,
    model,
    outputs,
    randomness,
    subgraph,
    support,
)
from nexus_compiler.frontend.onnx.node import MOVES, Node
from nexus_compiler.frontend.onnx.registry import Handler, at_run_time, handlers, plain_domain
from nexus_compiler.frontend.onnx.scope import Scope
from nexus_compiler.frontend.onnx.sizes import Size, Sizes, expression
from nexus_compiler.frontend.onnx.values import (
    CODE_ELEMENTS,
    Host,
    Value,
    check_tensor,
    is_float,
    read_tensor,
    tensor_type,
    variable_of,
)
from nexus_runtime.errors import CaptureError, NeedsConstant, UnsupportedOperator
from nexus_runtime.signature import FunctionSpec, Signature, TensorSpec
from nexus_runtime.tensors import BITS, bits


def capture(
    model: str | Path | onnx.ModelProto,
    *,
    shapes: inputs.Shapes | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    name: str = "",
) -> CapturedGraph:
    """Turn an ONNX model into Relax.

    Args:
        model: a file, or the model itself.
        shapes: for an input, its shape: an int fixes a symbolic dimension, a str renames it, None
            keeps it; for a sequence, how many elements it has, for an optional (0,) or (1,).
        constants: for an input, its value: it is an input no more.
        name: what to call the model; by default the file's name.

    Raises:
        CaptureError: the model cannot be read, or is not valid.
        UnsupportedOperator: it holds operators that have no translation.
        ShapeError: `shapes` or `constants` do not fit the model, or its shapes each other.
    """
    return _capture(model, shapes or {}, constants or {}, name)


def _capture(
    source: str | Path | onnx.ModelProto,
    shapes: inputs.Shapes,
    constants: Mapping[str, np.ndarray],
    name: str,
) -> CapturedGraph:
    proto, origin = model.load(source, name)
    support.check_operators(proto)
    model.check(proto, origin.name)
    importer = Importer(functions.local(proto), [value.name for value in proto.graph.input])
    weights = {tensor.name for tensor in proto.graph.initializer}
    values = [value for value in proto.graph.input if value.name not in weights]
    flat, own = containers.flat(values, shapes)
    specs, frozen = inputs.freeze(inputs.specs(flat, own, constants), constants)
    parameters = inputs.variables(specs, importer.sizes)
    scope = Scope({plain_domain(o.domain): o.version for o in proto.opset_import})
    for spec, parameter in zip(specs, parameters):
        scope.values[spec.name] = importer.labelled(parameter, spec.dtype)
    scope.values.update(frozen)
    for value in filter(containers.is_container, values):
        scope.values[value.name] = containers.gathered(importer, value, shapes, scope.values)
    module, results = importer.build(proto.graph, scope, parameters)
    specs += importer.random.specs()
    entry = FunctionSpec("main", tuple(specs), tuple(results), tuple(importer.parameters))
    arrays = {key: array for key, (_, array) in importer.parameters.items()}
    weights = tuple(TensorSpec(key, a.dtype.name, a.shape) for key, a in arrays.items())
    return CapturedGraph(module, Signature((entry,), weights), arrays, origin)


class Importer:
    """The state of one import.

    Attributes:
        sizes: arithmetic on the symbolic dimensions of this model.
        parameters: the weights that the code uses, in order of first use.
        builder: what everything is emitted with; another one while a subgraph is imported.
        private: the functions that are no entries.
        unknowns: sizes that show only when the model runs, for each subgraph around this place.
        random: where random numbers come from.
    """

    def __init__(self, local: functions.Functions, names: Sequence[str]) -> None:
        self.sizes = Sizes()
        self.parameters: dict[str, tuple[relax.Var, np.ndarray]] = {}
        self.builder = relax.BlockBuilder()
        self.unknowns: list[set[tirx.Var]] = [set()]
        self.private = subgraph.Table()
        self.random = randomness.Randomness(names)
        self._functions = local
        self._tally = faults.Tally()
        self._labels: dict[relax.Expr, str] = {}

    def build(
        self, graph: onnx.GraphProto, scope: Scope, parameters: Sequence[relax.Var]
    ) -> tuple[IRModule, list[TensorSpec]]:
        """The module with the function "main", and what it returns."""
        builder = self.builder
        with builder.function("main", list(parameters)):
            try:
                with builder.dataflow():
                    pairs = zip(graph.output, self.run_graph(graph, scope))
                    flat = [one for pair in pairs for one in containers.results(self, *pair)]
                    values = [outputs.settle(self, *pair) for pair in flat]
                    results = builder.emit_output(relax.Tuple(values))
            except Exception:
                # TVM prints a warning of its own about every block that is left open.
                builder._end_block()
                raise
            builder.emit_func_output(results)
        function = builder.get()["main"]
        weights = [variable for variable, _ in self.parameters.values()]
        # Which weights are used shows only at the end, hence a second function object.
        whole = relax.Function(
            [*function.params, *self.random.variables, *weights],
            function.body,
            function.ret_ty,
            function.is_pure,
            function.attrs,
        )
        module = builder.get()
        module.update_func(module.get_global_var("main"), whole)
        self.private.add_to(module)
        pairs = zip((name for name, _ in flat), values)
        return module, [outputs.spec(self, *pair) for pair in pairs]

    # Walking
    def run_graph(self, graph: onnx.GraphProto, scope: Scope) -> list[Value]:
        """Import `graph` in `scope` and return its outputs."""
        for tensor in graph.initializer:
            array = read_tensor(tensor)
            dtype = array.dtype.name
            weight = is_float(dtype) and dtype not in BITS and array.ndim > 0
            scope.values[tensor.name] = Host(array, dtype, tensor.name, weight)
        if graph.sparse_initializer:
            raise CaptureError("the model has sparse weights", hint="export it with dense weights")
        wanted = [value.name for value in graph.output]
        scope.nodes = graph.node
        found = self.run(support.needed(graph.node, wanted), wanted, scope)
        if scope.outer is not None and (narrow := {self.dtype(v) for v in found} & set(BITS)):
            raise UnsupportedOperator(f"a branch or loop returns {narrow.pop()}", hint="cast it")
        return found

    def run(
        self, nodes: Iterable[onnx.NodeProto], wanted: Iterable[str], scope: Scope
    ) -> list[Value]:
        """Import `nodes` in `scope` and return the values of the names `wanted`."""
        for proto in nodes:
            self._tally.node()
            node = Node(proto, scope, self)
            with faults.explained(node):
                for name, value in zip(proto.output, self._translate(node)):
                    if name and value is not None:
                        scope.values[name] = bound = self._bind(value, name)
                        faults.check_size(node, bound)
        found = [scope.lookup(name) for name in wanted]
        return [value for value in found if value is not None]

    def _translate(self, node: Node) -> Sequence[Value | None]:
        if (known := host.evaluate(node)) is not None:
            return known
        key = node.domain, node.kind
        handler = handlers().get(key)
        if handler is None or key in self._functions:
            return self._call(node)
        try:
            return self._apply(handler, node)
        except NeedsConstant:
            if (late := at_run_time().get(key)) is None:
                raise
            return self._apply(late, Node(node.proto, node.scope, self))

    def _apply(self, handler: Handler, node: Node) -> Sequence[Value | None]:
        results = handler(node)
        found = list(results) if isinstance(results, Sequence) else [results]
        node.finish(found)
        return [self._moved(node, value) for value in found] if node.kind in MOVES else found

    def _call(self, node: Node) -> Sequence[Value | None]:
        """Import the body of a function in the node's place."""
        function = self._functions.get((node.domain, node.kind))
        if function is None:
            kinds = [support.type_proto(node, i) for i in range(len(node))]
            function = functions.body(node.proto, node.opset, kinds)
        if function is None:
            raise node.refuse("there is no handler for it, and ONNX defines it by no others")
        opsets = {plain_domain(o.domain): o.version for o in function.opset_import}
        scope = Scope({**node.scope.opsets, **opsets})
        scope.values.update(dict.fromkeys(function.input))
        scope.values.update(zip(function.input, node.values))
        nodes = scope.nodes = functions.instantiate(function, node.proto, node.opset)
        asked = [inner for inner, name in zip(function.output, node.proto.output) if name]
        known = dict(zip(asked, self.run(support.needed(nodes, asked), asked, scope)))
        return [known.get(name) for name in function.output]

    # Making values
    def emit(self, expr: relax.Expr, name: str = "") -> relax.Var:
        """Bind `expr` to a new variable."""
        if isinstance(expr, relax.Var):
            return expr
        self._tally.operation()
        return self.builder.emit(expr, re.sub(r"\W+", "_", name).strip("_"))

    def match(self, tensor: relax.Expr, shape: Sequence[Size]) -> relax.Var:
        """`tensor`, which is checked to have `shape` whenever the model runs."""
        dims: Any = [expression(size) for size in shape]
        kind = relax.TensorType(dims, tensor_type(tensor).dtype)
        return self.builder.match_cast(tensor, kind)

    def unknown(self, name: str) -> tirx.Var:
        """A new symbolic size, known only when the model runs; a match gives it its value."""
        variable = self.sizes.variable(name, 0)
        self.unknowns[-1].add(variable)
        return variable

    def labelled(self, bits: relax.Expr, dtype: str) -> relax.Expr:
        """`bits`, to be taken for elements of `dtype` if that is one of `BITS`."""
        if dtype not in BITS:
            return bits
        variable = self.emit(bits)
        self._labels[variable] = dtype
        return variable

    def dtype(self, value: Value) -> str:
        """The element type of a value, by NumPy's name."""
        if isinstance(value, Host):
            return value.dtype
        if isinstance(value.ty, relax.TupleType):
            return "sequence"
        return self._labels.get(value) or str(tensor_type(value).dtype.dtype)

    def _moved(self, node: Node, value: Value) -> Value:
        """A result of an operator that moves elements: what they are, the bits do not tell."""
        source = node.values[1 if node.kind == "Where" else 0]
        if source is None or isinstance(value, Host) or isinstance(value.ty, relax.TupleType):
            return value
        return self.labelled(value, self.dtype(source))

    def _bind(self, value: Value, name: str) -> Value:
        return value.named(name) if isinstance(value, Host) else self.emit(value, name)

    def tensor(self, value: Value) -> relax.Expr:
        """A value as a tensor: a host value becomes a parameter, a constant, or code."""
        check_tensor(value)
        if isinstance(value, relax.Expr):
            return value
        if value.dtype in BITS:
            stored = replace(value, array=bits(value.array), dtype="uint8")
            return self.labelled(self.emit(self.tensor(stored)), value.dtype)
        if value.symbolic:
            flat = relax.ShapeExpr([expression(size) for size in value.array.reshape(-1)])
            tensor = self.emit(relax.op.shape_to_tensor(flat))
            tensor = self.emit(relax.op.reshape(tensor, value.array.shape))
            return self.emit(relax.op.astype(tensor, value.dtype))
        if value.array.size == 0:  # TVM cannot read an empty constant back
            return self.emit(relax.op.zeros(value.array.shape, value.dtype))
        if value.weight or value.array.size > CODE_ELEMENTS:
            return self._parameter(value)
        return relax.const(
            np.ascontiguousarray(value.array).reshape(value.array.shape), value.dtype
        )

    def _parameter(self, value: Host) -> relax.Var:
        name = value.name or f"constant_{len(self.parameters)}"
        while name in self.parameters:
            variable, array = self.parameters[name]
            if array is value.array:
                return variable
            name += "_"
        variable = variable_of(name, value.array.shape, value.dtype)
        self.parameters[name] = variable, value.array
        return variable
