"""Walks a graph of ATen operators and builds the Relax function."""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
import torch
from tvm import IRModule, relax

from nexus_compiler.frontend.torch import registry, sizes, support
from nexus_compiler.frontend.torch.node import Node, dtype_of, where
from nexus_compiler.frontend.torch.shapes import Shapes
from nexus_compiler.frontend.torch.sizes import Dims
from nexus_compiler.frontend.torch.values import as_array, dtype_name, tensor_constant
from nexus_runtime.errors import CaptureError, InternalError, NexusError
from nexus_runtime.signature import TensorSpec

if TYPE_CHECKING:
    from nexus_compiler.frontend.torch.cutting import Argument
    from nexus_compiler.frontend.torch.parts import Parts

CODE_ELEMENTS = 16
"""Up to so many elements a constant goes into the code; above, it is a parameter."""

SEED, ROW = "seed", "row"
"""Inputs of graphs with random operators: a number a call, and the first sample's in the batch."""


class Importer:
    """The state of one import.

    Attributes:
        dims: the dynamic dimensions.
        builder: what everything is emitted with; another one inside of a loop.
        private: the functions of loops (a `Table` of `loops.py`), if there are any.
        shapes: of the values, where TVM knows less than PyTorch.
        constants: arrays that became parameters: the variable and the array by name.
        seed: the inputs `seed` and `row`, made when the first random operator asks for them.
        streams: how many random operators there are.
        weights: the variables of parameters and buffers, by their first names.
        parts: layers that `nexus::part` puts in.
        trace: a hash of all operators so far, in order, and what they are applied to.
    """

    def __init__(self) -> None:
        self.dims = Dims()
        self.constants: dict[str, tuple[relax.Var, np.ndarray]] = {}
        self.seed: dict[str, relax.Var] = {}
        self.builder = relax.BlockBuilder()
        self.private: Any = None
        self.shapes = Shapes(self)
        self._values: dict[torch.fx.Node, Any] = {}
        self._module: torch.nn.Module = torch.nn.Module()
        self._label = ""
        self.streams = 0
        self.weights: dict[str, relax.Var] = {}
        self.parts: Parts | None = None
        self.trace = hashlib.sha256()
        self._numbers: dict[Any, int] = {}
        self._moved = ("", "")

    # Building
    def variable(self, spec_name: str, fake: Any) -> tuple[relax.Var, TensorSpec]:
        """A Relax variable and the specification of an input or a parameter."""
        shape = [sizes.plain(size) for size in fake.shape]
        dtype = dtype_name(fake.dtype)
        self.dims.bind(shape)
        for axis, size in enumerate(shape):
            self.dims.solve(size, f"{_identifier(spec_name)}_axis{axis}")
        dims: Any = [self.dims.expression(size) for size in shape]
        variable = relax.Var(_identifier(spec_name), relax.TensorType(dims, dtype))
        return variable, TensorSpec(spec_name, dtype, tuple(map(self.dims.input_text, shape)))

    def length(self, name: str, symbol: sympy.Symbol) -> tuple[relax.Var, TensorSpec]:
        """An input that only carries the size `symbol`: a vector of that length."""
        self.dims.bind([symbol])
        dims: Any = [self.dims.expression(symbol)]
        spec = TensorSpec(name, "bool", (self.dims.text(symbol),))
        return relax.Var(_identifier(name), relax.TensorType(dims, "bool")), spec

    def build(
        self,
        module: torch.fx.GraphModule,
        given: Mapping[torch.fx.Node, Any],
        inputs: Sequence[relax.Var],
        parameters: Sequence[relax.Var],
        results: Callable[[list[Any]], list[relax.Expr]],
    ) -> IRModule:
        """The function "main" of `module`'s graph, and those of its loops.

        Args:
            module: the graph and what its `get_attr` nodes name.
            given: values of the placeholders.
            inputs: the variables of the inputs; `seed` and `row` follow them where needed.
            parameters: the variables of the weights; arrays of the graph follow them.
            results: makes of what the graph returns the tensors that the function returns.
        """
        support.check_operators(module)
        self._values.update(given)
        builder = self.builder
        with builder.function("main", [*inputs, *parameters]):
            try:
                with builder.dataflow():
                    returned = self.run(module)
                    output = builder.emit_output(relax.Tuple(results(returned)))
            except Exception:
                # TVM prints a warning of its own about every block that is left open.
                builder._end_block()
                raise
            builder.emit_func_output(output)
        function = builder.get()["main"]
        constants = [variable for variable, _ in self.constants.values()]
        # Which of these are used shows only at the end, hence a second function object.
        main = relax.Function(
            [*inputs, *self.seed.values(), *parameters, *constants],
            function.body,
            function.ret_ty,
            function.is_pure,
            function.attrs,
        )
        built = IRModule({"main": main})
        if self.private is not None:
            self.private.add_to(built)
        return built

    def run(self, module: Any) -> list[Any]:
        """Import all nodes; the values that the graph returns."""
        outer, self._module = self._module, module
        returned: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "output":
                found = self.value(node.args[0])
                returned = list(found) if isinstance(found, list | tuple) else [found]
            elif node.op != "placeholder":
                self._values[node] = self._evaluate(node)
        self._module = outer
        return returned

    def inline(self, module: Any, arguments: Sequence[Any]) -> list[Any]:
        """Import the graph of a nested module on `arguments`."""
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._values.update(zip(placeholders, arguments))
        return self.run(module)

    def play(self, key: str, path: str, values: Sequence[Any]) -> list[Any]:
        """The operators of the part `key` on `values` and the weights of the layer at `path`."""
        parts = self.parts
        assert parts is not None  # its operators are in the graph
        part = parts.found[key]

        def given(argument: Argument) -> Any:
            if isinstance(argument, str):
                return self.weights[parts.names[f"{path}.{argument}"]]
            return values[argument] if isinstance(argument, int) else argument

        arguments = [given(one) for one in part.graph.arguments]
        outer, self._moved = self._moved, (part.kind.path, path)
        try:
            return self.inline(part.graph, arguments)
        finally:
            self._moved = outer

    def _evaluate(self, node: torch.fx.Node) -> Any:
        if node.op == "get_attr":
            return self._attribute(node)
        known = sizes.plain(node.meta.get("val"))
        if registry.name_of(node.target) == "aten::_local_scalar_dense":
            return self._translate(node)
        if isinstance(known, bool | int | float) or sizes.is_symbolic(known):
            return known  # arithmetic on sizes: PyTorch has done it
        if node.target is operator.getitem:
            return self.value(node.args[0])[node.args[1]]
        if support.is_ignored(node.target):
            return None
        return self._translate(node)

    def _attribute(self, node: torch.fx.Node) -> Any:
        found: Any = self._module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        if isinstance(found, torch.Tensor):
            return self.constant(as_array(found), str(node.target))
        return found

    def _translate(self, fx: torch.fx.Node) -> Any:
        self._label = _label(fx, *self._moved)
        self._tell(fx)
        node = Node(fx, self)
        handler = support.higher_order(fx.target) or registry.find(fx.target)
        if handler is None:  # `support.check_operators` looks at all graphs first
            raise InternalError(f"there is no handler for {node}")
        try:
            result = handler(node)
            if isinstance(result, list | tuple):
                return [
                    None if one is None else self._checked(fx, one, i)
                    for i, one in enumerate(result)
                ]
            return self._checked(fx, result, None)
        except NexusError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CaptureError(
                f"{node} cannot be translated: {reason[-1]}", hint="please report this"
            ) from error

    def _tell(self, fx: torch.fx.Node) -> None:
        """Add an operator to `trace`: values by when they came first, so names are none of it."""
        name = registry.name_of(fx.target) or str(fx.target)
        if name not in {"nexus::border", "nexus::part"}:
            given = self._told([*fx.args, *fx.kwargs.items()])
            self.trace.update(f"{fx.target} {given}\n".encode())

    def _told(self, argument: Any) -> str:
        if isinstance(argument, list | tuple):
            return f"({' '.join(map(self._told, argument))})"
        value = self._values[argument] if isinstance(argument, torch.fx.Node) else argument
        if isinstance(value, relax.Expr):
            return f"%{self._numbers.setdefault(value, len(self._numbers))}"
        if isinstance(value, list | tuple):
            return self._told(value)
        return "graph" if isinstance(value, torch.nn.Module) else str(sizes.plain(value))

    def _checked(self, fx: torch.fx.Node, value: Any, index: int | None) -> Any:
        """`value` bound to a variable of the type that PyTorch says it has.

        Raises:
            InternalError: a handler made another dtype or shape.
        """
        fake: Any = fx.meta.get("val")
        fake = fake if index is None else fake[index]
        if not isinstance(value, relax.Expr) or not isinstance(fake, torch.Tensor):
            return value
        variable = self.emit(value)
        wanted = [sizes.plain(size) for size in fake.shape]
        if dtype_of(variable) != dtype_name(fake.dtype) or not self.shapes.may_have(
            variable, wanted
        ):
            raise InternalError(
                f"{fx.target} '{fx.name}'{where(fx)} became {variable.ty}, "
                f"but is {fake.dtype}{wanted} in PyTorch"
            )
        return self.shapes.matched(variable, [self.dims.expression(size) for size in wanted])

    # Values
    def value(self, argument: Any) -> Any:
        """What an argument of a node stands for."""
        if isinstance(argument, torch.fx.Node):
            return self._values[argument]
        if isinstance(argument, list | tuple):
            return [self.value(one) for one in argument]
        return sizes.plain(argument)

    def emit(self, expr: Any) -> relax.Var:
        """Bind `expr` to a variable, named after the place in the model."""
        if isinstance(expr, relax.Var):
            return expr
        return self.builder.emit(self.shapes.broadcastable(expr), self._label)

    def constant(self, array: np.ndarray, name: str = "") -> relax.Expr:
        """An array as code where it is small, else as a parameter."""
        dtype = array.dtype.name
        if array.size <= CODE_ELEMENTS:
            return tensor_constant(array, dtype)
        name = name or f"constant_{len(self.constants)}"
        while name in self.constants:
            if self.constants[name][1] is array:
                return self.constants[name][0]
            name += "_"
        dims: Any = list(array.shape)
        variable = relax.Var(_identifier(name), relax.TensorType(dims, dtype))
        self.constants[name] = variable, np.array(array, order="C")
        return variable

    def randomness(self) -> tuple[relax.Var, relax.Var, int]:
        """The variables `seed` and `row`, and a number that no other random operator has."""
        if not self.seed:
            scalar: Any = []
            self.seed[SEED] = relax.Var(SEED, relax.TensorType(scalar, "uint32"))
            self.seed[ROW] = relax.Var(ROW, relax.TensorType(scalar, "int64"))
        self.streams += 1
        return self.seed[SEED], self.seed[ROW], self.streams - 1


def _label(node: torch.fx.Node, traced: str, layer: str) -> str:
    """A name for the results of `node`: the module that it is of, and its own name.

    One that was traced in the module `traced` and is put into `layer` is of that.
    """
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    inner = re.sub(r"L\['self'\]|_modules|[\['\]]", "", path).strip(".")
    if traced and f"{inner}.".startswith(f"{traced}."):
        inner = layer + inner.removeprefix(traced)
    return _identifier(f"{inner}.{node.name}".strip("."))


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_") or "value"
