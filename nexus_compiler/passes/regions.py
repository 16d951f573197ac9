"""Makes functions of regions and of the layers that repeat; the graph is left with calls of them.

    main(x, w...)  =  y = layer(x, w0...); z = layer(y, w1...); ...
    layer(x, w...) =  a = region_1(x, w...); b = region_2(a, w...); ...

A region is lowered on its own, and only where the store does not have it (`codegen/lowering.py`);
a layer is a function of the program, called as often as it stands in the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tvm import IRModule, relax
from tvm.ir import BaseFunc, GlobalVar

from nexus_compiler.ir.dataflow import Node, Parts, read, variables_of
from nexus_compiler.ir.region import INPUTS, Occurrence, Region, RegionTable, as_function
from nexus_compiler.passes.cluster import Cluster, clusters
from nexus_compiler.passes.repeats import Repeat, Step, repeats
from nexus_compiler.passes.weights import partition, weights_of


@dataclass(frozen=True)
class Place:
    """Where a region stands: in which function, and which weights of this function it uses."""

    function: str
    region: str
    weights: tuple[str, ...]


@dataclass
class Outlined:
    """A module whose functions call regions, and these regions by name.

    Attributes:
        module: everything but the regions' functions.
        regions: by the name by which `module` calls them.
        places: every place where a region stands, in order.
        layers: names of the functions that repeat.
    """

    module: IRModule
    regions: dict[str, Region] = field(default_factory=dict[str, Region])
    places: list[Place] = field(default_factory=list[Place])
    layers: list[str] = field(default_factory=list[str])


def outline(
    module: IRModule, table: RegionTable, *, least_nodes: int = 8, least_times: int = 16
) -> Outlined:
    """Outline the functions of `module` that are one dataflow block; others stay as they are.

    Args:
        module: a captured graph after the passes over whole graphs.
        table: regions that were met before.
        least_nodes: operators from which on a repeated layer becomes a function. A call takes about
            two microseconds, which would count where a layer has little to do.
        least_times: repetitions from which on it does. A function plans its memory alone, so that
            layers use more of the caches: ResNet-50 took 6 % longer with rows of five as functions.
            Kernels are shared in any case; this is about the program around them.
    """
    made = Outlined(IRModule(dict(module.functions.items()), attrs=module.attrs))
    parts = {v: f for v, f in module.functions.items() if "Primitive" in (f.attrs or {})}
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function) and INPUTS in (function.attrs or {}):
            nodes = read(function, parts, table.interner)
            if nodes:
                work = _Function(function, nodes, parts, made, table)
                made.module.update_func(
                    variable, work.outlined(str(variable.name_hint), least_nodes, least_times)
                )
    _remove_unused(made.module, parts)
    return made


def _remove_unused(module: IRModule, parts: Parts) -> None:
    """Take the parts out of `module` that only regions call."""
    called = {callee for function in module.functions.values() for callee in callees(function)}
    for variable in parts:
        if variable not in called:
            del module[variable]


def callees(function: BaseFunc) -> set[GlobalVar]:
    """What a Relax function calls; nothing for a kernel."""
    found: set[GlobalVar] = set()

    def visit(node: relax.Expr) -> None:
        if isinstance(node, GlobalVar):
            found.add(node)

    if isinstance(function, relax.Function):
        relax.analysis.post_order_visit(function, visit)
    return found


class _Function:
    """The work on one function."""

    def __init__(
        self,
        function: relax.Function,
        nodes: list[Node],
        parts: Parts,
        made: Outlined,
        table: RegionTable,
    ) -> None:
        self._function, self._nodes, self._parts = function, nodes, parts
        self._made, self._table = made, table
        weights = weights_of(function)
        early, _ = partition([node.binding for node in nodes], weights)
        variables = variables_of(nodes)
        self._early = {variables[binding.var].position for binding in early}
        self._known = {*weights, *(binding.var for binding in early)}

    def outlined(self, name: str, least_nodes: int, least_times: int) -> relax.Function:
        """The function with calls of regions and layers."""
        found = clusters(self._nodes, self._early)
        absorbed = self._absorbed(found)
        steps, own = self._steps(found, absorbed)
        bindings: list[relax.Binding] = [
            self._nodes[position].binding
            for position in sorted(self._early)
            if position not in absorbed
        ]
        self._note(name, steps)
        layers = repeats(
            steps,
            least_nodes=least_nodes,
            least_times=least_times,
            used=self._readers(steps, found, own),
        )
        inside: dict[int, tuple[Repeat, int]] = {
            window.start: (repeat, number)
            for repeat in layers
            for number, window in enumerate(repeat.windows)
        }
        functions = {id(repeat): self._layer(repeat, steps) for repeat in layers}
        place = 0
        while place < len(found):
            if place in inside:
                repeat, number = inside[place]
                bindings += self._call_layer(functions[id(repeat)], repeat, number, steps)
                place += repeat.length
                continue
            step = steps[place]
            if step is not None:
                bindings += self._call(step)
            else:
                bindings += [node.binding for node in own[place]]
            place += 1
        return self._with_body(bindings)

    def _absorbed(self, found: Sequence[Cluster]) -> dict[int, int]:
        """Early nodes that serve one cluster only, with its place; they move into it."""
        home = {node.position: place for place, c in enumerate(found) for node in c.nodes}
        variables = variables_of(self._nodes)
        readers: dict[int, set[int]] = {position: set() for position in self._early}
        for node in self._nodes:
            for variable in node.reads:
                source = variables.get(variable)
                if source is not None and source.position in self._early:
                    readers[source.position].add(node.position)
        kept = {variables[v].position for v in self._results() if v in variables}
        owner: dict[int, int] = {}
        for position in sorted(self._early, reverse=True):
            places = {home.get(r, owner.get(r, -1)) for r in readers[position]}
            opaque = self._nodes[position].operator is None or position in kept
            place = places.pop() if len(places) == 1 and not opaque else -1
            if place >= 0 and not found[place].is_opaque:
                owner[position] = place
        return owner

    def _results(self) -> list[relax.Var]:
        return list(relax.analysis.free_vars(self._function.body.body))

    def _steps(
        self, found: Sequence[Cluster], absorbed: dict[int, int]
    ) -> tuple[list[Step], list[list[Node]]]:
        """Each cluster as a call of its region, None where it stays; and its nodes."""
        own: list[list[Node]] = [list(cluster.nodes) for cluster in found]
        for position, place in absorbed.items():
            own[place].append(self._nodes[position])
        home = {node.binding.var: place for place, nodes in enumerate(own) for node in nodes}
        used: list[set[relax.Var]] = [set() for _ in own]
        results = self._results()
        for variable in results:
            if variable in home:
                used[home[variable]].add(variable)
        for node in self._nodes:
            here = home.get(node.binding.var, -1)
            for variable in node.reads:
                place = home.get(variable, -1)
                if place not in (-1, here):
                    used[place].add(variable)
        steps: list[Step] = []
        for place, cluster in enumerate(found):
            own[place].sort(key=lambda node: node.position)
            outside = self._known - {node.binding.var for node in own[place]}
            steps.append(
                None
                if cluster.is_opaque
                else self._table.occurrence(own[place], outside, used[place], self._parts)
            )
        return steps, own

    def _readers(
        self, steps: Sequence[Step], found: Sequence[Cluster], own: Sequence[Sequence[Node]]
    ) -> dict[relax.Var, set[int]]:
        """The steps that read each variable; -1 for the result."""
        readers: dict[relax.Var, set[int]] = {}
        for place, nodes in enumerate(own):
            for node in nodes:
                for variable in node.reads:
                    readers.setdefault(variable, set()).add(place)
        for variable in self._results():
            readers.setdefault(variable, set()).add(-1)
        return readers

    def _note(self, name: str, steps: Iterable[Step]) -> None:
        for step in steps:
            if step is not None:
                region = self._name(step.region)
                weights = tuple(str(variable.name) for variable in step.weights)
                self._made.places.append(Place(name, region, weights))

    def _name(self, region: Region) -> str:
        name = str(region.variable.name_hint)
        self._made.regions.setdefault(name, region)
        return name

    def _call(self, step: Occurrence) -> list[relax.Binding]:
        return call(step.region.variable, [*step.inputs, *step.weights], step.outputs)

    def _layer(self, repeat: Repeat, steps: Sequence[Step]) -> GlobalVar:
        """The function of equal layers, made from the first of them."""
        window = repeat.windows[0]
        bindings: list[relax.Binding] = []
        inner: list[Occurrence] = []
        for step in steps[window.start : window.start + repeat.length]:
            assert step is not None  # a window holds nothing else
            inner.append(step)
            bindings += self._call(step)
        outputs = [inner[place].outputs[output] for place, output in repeat.outputs]
        function = as_function([*window.inputs, *window.weights], bindings, outputs)
        name = f"layer_{len(self._made.layers)}"
        self._made.layers.append(name)
        function = function.with_attrs({INPUTS: len(window.inputs), "global_symbol": name})
        variable = GlobalVar(name)
        relax.expr._update_type(variable, function.ty)
        self._made.module.update_func(variable, function)
        return variable

    def _call_layer(
        self, layer: GlobalVar, repeat: Repeat, number: int, steps: Sequence[Step]
    ) -> list[relax.Binding]:
        window = repeat.windows[number]
        outputs: list[relax.Var] = []
        for place, output in repeat.outputs:
            step = steps[window.start + place]
            assert step is not None
            outputs.append(step.outputs[output])
        return call(layer, [*window.inputs, *window.weights], outputs)

    def _with_body(self, bindings: Sequence[relax.Binding]) -> relax.Function:
        old = self._function
        body = relax.SeqExpr([relax.DataflowBlock(list(bindings))], old.body.body)
        return relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs)


def call(
    function: GlobalVar, arguments: Sequence[relax.Var], outputs: Sequence[relax.Var]
) -> list[relax.Binding]:
    """Bindings that call `function`, which returns a tuple, and give `outputs` its parts."""
    value = relax.Call(function, list(arguments))
    kind = relax.TupleType([variable.ty for variable in outputs])
    relax.expr._update_type(value, kind)
    parts = relax.DataflowVar("parts", kind)
    made: list[relax.Binding] = [relax.VarBinding(parts, value)]
    for place, variable in enumerate(outputs):
        made.append(relax.VarBinding(variable, relax.TupleGetItem(parts, place)))
    return made
