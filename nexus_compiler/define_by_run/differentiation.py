"""`grad` and `value_and_grad`: reverse mode through what a function did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nexus_compiler.define_by_run import tree
from nexus_compiler.define_by_run.engine import engine
from nexus_compiler.frontend.tracing import dtypes, recorder
from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.functions import asarray, ones, reductions
from nexus_compiler.frontend.tracing.nodes import Graph, Node
from nexus_compiler.frontend.tracing.recorder import Cut
from nexus_compiler.frontend.tracing.recording import array_of, node_of, record
from nexus_runtime.errors import UserError


def grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the gradients of `function`; see `value_and_grad`."""
    both = value_and_grad(function, argnums)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0
) -> Callable[..., Any]:
    """A function that returns the value of `function` and its gradients.

    Args:
        function: returns a float scalar.
        argnums: positions of the arguments to differentiate by: float arrays, or nested tuples,
            lists and dicts of them. The gradients have their form; several positions make a tuple.

    Branches and loops on data are followed as they were taken. Inside of `jit` value and gradients
    are parts of the region.
    """
    several = not isinstance(argnums, int)
    positions = tuple(argnums) if not isinstance(argnums, int) else (argnums,)
    engine()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = [tree.flatten(args[position]) for position in positions]
        sources = [_source(leaf) for leaves, _ in given for leaf in leaves]
        wanted = [one.node for one in sources]
        fresh, rest = list(args), iter(sources)
        for position, (leaves, structure) in zip(positions, given):
            fresh[position] = tree.unflatten(structure, [next(rest) for _ in leaves])
        value, gradients = _run(function, fresh, kwargs, wanted)
        found = iter(gradients)
        trees = [tree.unflatten(form, [next(found) for _ in leaves]) for leaves, form in given]
        return value, (tuple(trees) if several else trees[0])

    return wrapped


def _source(leaf: Any) -> Array:
    array = leaf if isinstance(leaf, Array) else asarray(leaf)
    if array.dtype not in dtypes.FLOATS:
        raise TypeError(f"gradients are by float arrays, not by {array.dtype}")
    # A node of its own: only what goes through this argument counts.
    return record("identity", (node_of(array),), array.shape, array.dtype)


def _run(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], wanted: list[Node]
) -> tuple[Array, list[Array]]:
    trace = recorder.current()
    tape: list[Cut] = []
    trace.tapes.append(tape)
    try:
        value = function(*args, **kwargs)
    finally:
        trace.tapes.remove(tape)
    if not isinstance(value, Array) or value.shape != () or value.dtype not in dtypes.FLOATS:
        found = f"{value.dtype}{list(value.shape)}" if isinstance(value, Array) else repr(value)
        raise UserError(
            f"only float scalars have gradients here, not {found}", hint="return a sum or a mean"
        )
    if not tape:
        return value, _gradients(value.node, wanted)
    return value, _Chain(tape, wanted).gradients(value, trace.pending)


def _gradients(loss: Node, sources: Sequence[Node]) -> list[Array]:
    group = record("gradients", (loss, *sources), (), loss.dtype).node
    return [
        record("item", (group,), node.shape, node.dtype, attrs=(index,))
        for index, node in enumerate(sources)
    ]


class _Chain:
    """The regions that ran, walked backwards: each is recorded again, with its gradients."""

    def __init__(self, tape: list[Cut], wanted: list[Node]) -> None:
        self._tape, self._wanted = tape, wanted
        self._adjoints: dict[Node, Array] = {}
        self._active: set[Node] = set(wanted)
        for cut in tape:
            reads = {*cut.graph.leaves, *cut.graph.nodes}
            if reads & self._active:
                floats = [one for one in cut.results if one.dtype in dtypes.FLOATS]
                self._active.update(floats)

    def gradients(self, value: Array, pending: list[Node]) -> list[Array]:
        """The gradients of `value` by the wanted nodes."""
        if value.node.op != "leaf":
            self._step(Graph.of([value.node], pending), [(value.node, None)])
        else:
            self._adjoints[value.node] = ones((), dtype=value.dtype)
        for cut in reversed(self._tape):
            pairs = zip(cut.graph.outputs, cut.results)
            reached = [(node, self._adjoints.get(known)) for node, known in pairs]
            if found := [(node, adjoint) for node, adjoint in reached if adjoint is not None]:
                self._step(cut.graph, found)
        return [self._of(node) for node in self._wanted]

    def _of(self, node: Node) -> Array:
        found = self._adjoints.get(node)
        return asarray(np.zeros(node.shape, node.dtype)) if found is None else found

    def _step(self, graph: Graph, reached: Sequence[tuple[Node, Array | None]]) -> None:
        inputs = [one for one in (*graph.leaves, *graph.nodes) if one in self._active]
        if not inputs:
            return
        copies: dict[Node, Node] = {}
        for node in graph.nodes:
            copies[node] = node if node.op == "const" else _copy(node, copies)
        sources = [copies.get(one, one) for one in inputs]
        for one, part in zip(inputs, _gradients(_weighted(reached, copies), sources)):
            old = self._adjoints.get(one)
            self._adjoints[one] = part if old is None else old + part
        recorder.current().flush("gradients")


def _weighted(reached: Sequence[tuple[Node, Array | None]], copies: dict[Node, Node]) -> Node:
    """The sum of all outputs, each weighted with its adjoint."""
    loss: Array | None = None
    for node, adjoint in reached:
        output = array_of(copies[node])
        part = output if adjoint is None else reductions.sum(output * adjoint)
        loss = part if loss is None else loss + part
    assert loss is not None
    return loss.node


def _copy(node: Node, copies: dict[Node, Node]) -> Node:
    inputs = tuple(copies.get(one, one) for one in node.inputs)
    again = Node(node.op, inputs, node.shape, node.dtype, attrs=node.attrs, sizes=node.sizes)
    return recorder.current().add(again)
