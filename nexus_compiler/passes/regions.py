"""Makes functions of regions; the graph is left with calls of them.

    main(x, w...) = a = region_1(x, w...); b = region_2(a, w...); ...

A region is lowered on its own, and only where the store does not have it (`codegen/lowering.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tvm import IRModule, relax
from tvm.ir import GlobalVar

from nexus_compiler.ir.bodies import with_block
from nexus_compiler.ir.calls import callees
from nexus_compiler.ir.dataflow import Node, Parts, read
from nexus_compiler.ir.region import INPUTS, Region, RegionTable, call
from nexus_compiler.passes.layers import is_layer
from nexus_compiler.passes.pieces import Pieces


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
        places: every place where a region stands, in order; those in a layer for each call of it.
    """

    module: IRModule
    regions: dict[str, Region] = field(default_factory=dict[str, Region])
    places: list[Place] = field(default_factory=list[Place])

    @cached_property
    def layers(self) -> set[str]:
        """Names of the functions that repeat."""
        return {str(v.name_hint) for v, f in self.module.functions.items() if is_layer(f)}


def outline(module: IRModule, table: RegionTable) -> Outlined:
    """Outline the functions of `module` that are one dataflow block; others stay as they are.

    Args:
        module: a captured graph after the passes over whole graphs.
        table: regions that were met before.
    """
    made = Outlined(IRModule(dict(module.functions.items()), attrs=module.attrs))
    parts = {v: f for v, f in module.functions.items() if "Primitive" in (f.attrs or {})}
    # Whoever calls layers tells the places in them, and comes after them.
    functions = sorted(module.functions.items(), key=lambda item: not is_layer(item[1]))
    layers: dict[GlobalVar, list[Place]] = {}
    for variable, function in functions:
        if not isinstance(function, relax.Function) or INPUTS not in (function.attrs or {}):
            continue
        nodes = read(function, parts, table.interner)
        if nodes:
            work = _Function(str(variable.name_hint), Pieces(function, nodes), made)
            made.module.update_func(variable, work.outlined(table, parts, layers))
            if is_layer(function):
                layers[variable] = work.places
            else:
                made.places += work.places
    _remove_unused(made.module, parts)
    return made


def _remove_unused(module: IRModule, parts: Parts) -> None:
    """Take the parts out of `module` that only regions call."""
    called = {callee for function in module.functions.values() for callee in callees(function)}
    for variable in parts:
        if variable not in called:
            del module[variable]


class _Function:
    """The work on one function, and the places in it."""

    def __init__(self, name: str, pieces: Pieces, made: Outlined) -> None:
        self.places: list[Place] = []
        self._name, self._pieces, self._made = name, pieces, made

    def outlined(
        self, table: RegionTable, parts: Parts, layers: Mapping[GlobalVar, Sequence[Place]]
    ) -> relax.Function:
        """The function with calls of regions."""
        pieces = self._pieces
        bindings = pieces.outside()
        for place, nodes in enumerate(pieces.own):
            found = None
            if not pieces.clusters[place].is_opaque:
                found = table.occurrence(nodes, pieces.known, pieces.used(place), parts)
            if found is None:
                bindings += [node.binding for node in nodes]
                for node in nodes:
                    self._enter(node, layers)
                continue
            region = found.region
            bindings += call(region.variable, [*found.inputs, *found.weights], found.outputs)
            self._note(region, [str(variable.name) for variable in found.weights])
        return with_block(pieces.function, bindings)

    def _note(self, region: Region, weights: Sequence[str]) -> None:
        name = str(region.variable.name_hint)
        self._made.regions.setdefault(name, region)
        self.places.append(Place(self._name, name, tuple(weights)))

    def _enter(self, node: Node, layers: Mapping[GlobalVar, Sequence[Place]]) -> None:
        """Note the places in the layer that `node` calls, with the weights that it hands over."""
        value = node.binding.value
        callee = getattr(value, "op", None)
        if callee in layers:
            parameters = self._made.module[callee].params
            given = {str(p.name): str(a.name) for p, a in zip(parameters, value.args)}
            for place in layers[callee]:
                weights = tuple([given.get(weight, "") for weight in place.weights])
                self.places.append(Place(self._name, place.region, weights))
