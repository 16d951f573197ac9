"""Makes functions of the layers that a network repeats, before anything else is done with them.

    main(x, w...)  =  y = layer_0(x, w0...); z = layer_0(y, w1...); ...

What follows then takes as long for a hundred equal layers as for one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import IRModule, relax
from tvm.ir import BaseFunc, GlobalVar, Op

from nexus_compiler.ir.bodies import with_block
from nexus_compiler.ir.dataflow import Interner, Parts, read, sizes_in
from nexus_compiler.ir.region import INPUTS, ClusterSignature, as_function, call
from nexus_compiler.passes.base import Pass
from nexus_compiler.passes.pieces import Pieces
from nexus_compiler.passes.repeats import Repeat, Shape, Step, Steps, repeats

LAYER = "nexus.layer"
"""The attribute of a function that this pass made."""

_ACROSS = ("relax.nn.conv", "relax.image.", "relax.quantize", "relax.dequantize")
"""Operators, by how they begin, that stand for passes which look across the borders of layers."""


def is_layer(function: BaseFunc) -> bool:
    """Whether `function` is one that repeats."""
    return LAYER in (function.attrs or {})


@dataclass(frozen=True)
class Layers(Pass):
    """Outline layers that come often; stands behind what removes repeated bindings.

    Attributes:
        least_nodes: operators that a layer must have. A call takes about two microseconds, which
            would count where a layer has little to do.
        least_times: how often it must come. A function plans its memory alone, so that layers use
            more of the caches: ResNet-50 took 6 % longer with rows of five as functions. Kernels
            are shared in any case; this is about the program around them.
        across: also where layouts and number formats are still to be chosen for many layers at
            once.
    """

    name: ClassVar[str] = "layers"
    leaves: ClassVar[str] = "captured"

    least_nodes: int = 8
    least_times: int = 16
    across: bool = False

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the functions that are one dataflow block and no layers themselves."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        parts = {v: f for v, f in module.functions.items() if "Primitive" in (f.attrs or {})}
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and self._is_long(function):
                self._outline(updated, variable, function, parts)
        # A copied call of a part has no type.
        return relax.transform.Normalize()(updated) if parts else updated

    def _is_long(self, function: relax.Function) -> bool:
        if INPUTS not in (function.attrs or {}) or is_layer(function):
            return False
        blocks = getattr(function.body, "blocks", ())
        return sum(len(b.bindings) for b in blocks) >= self.least_nodes * self.least_times

    def _outline(
        self, module: IRModule, variable: GlobalVar, function: relax.Function, parts: Parts
    ) -> None:
        if not self.across and _looks_across(function):
            return
        nodes = read(function, parts, Interner())
        if nodes is None:
            return
        pieces = Pieces(function, nodes)
        steps = _steps(pieces)
        found = repeats(
            steps,
            least_nodes=self.least_nodes,
            least_times=self.least_times,
            used=pieces.readers,
        )
        if found:
            module.update_func(variable, _with_calls(module, pieces, steps, found))


def _looks_across(function: relax.Function) -> bool:
    names = (
        str(binding.value.op.name)
        for block in function.body.blocks
        for binding in block.bindings
        if isinstance(getattr(binding.value, "op", None), Op)
    )
    return any(name.startswith(_ACROSS) for name in names)


def _steps(pieces: Pieces) -> Steps:
    """Each cluster in the order of the model; None where only TVM can read it."""
    shapes: dict[object, Shape] = {}
    steps: list[Step | None] = []
    for place, nodes in enumerate(pieces.own):
        signed = None
        if not pieces.clusters[place].is_opaque:
            # The last layer may hand out less than the others.
            signed = ClusterSignature(nodes, pieces.known, {node.makes for node in nodes})
        if signed is None or signed.key is None:
            steps.append(None)
            continue
        shape = shapes.setdefault(signed.key, Shape(len(nodes)))
        kinds = signed.kinds if signed.is_open else {}
        sizes = {v: found for v, kind in kinds.items() if (found := sizes_in(kind))}
        steps.append(Step(shape, signed.inputs, signed.weights, signed.outputs, sizes))
    return steps


def _with_calls(
    module: IRModule, pieces: Pieces, steps: Steps, found: Sequence[Repeat]
) -> relax.Function:
    """The function of `pieces` with calls of layers, which are put into `module`."""
    begins = {window.start: (r, window) for r in found for window in r.windows}
    layers = {id(repeat): _layer(module, repeat, steps, pieces) for repeat in found}
    bindings = pieces.outside()
    place = 0
    while place < len(steps):
        if place in begins:
            repeat, window = begins[place]
            outputs = repeat.handed_out(steps, window)
            made = call(layers[id(repeat)], [*window.inputs, *window.weights], outputs)
            inside = set(range(place, place := place + repeat.length))
            unread = {v for v in outputs if pieces.readers.get(v, inside) <= inside}
            bindings += [binding for binding in made if binding.var not in unread]
        else:
            bindings += [node.binding for node in pieces.own[place]]
            place += 1
    return with_block(pieces.function, bindings)


def _layer(module: IRModule, repeat: Repeat, steps: Steps, pieces: Pieces) -> GlobalVar:
    """The function of equal layers in `module`, made from the first of them."""
    window = repeat.windows[0]
    inside = range(window.start, window.start + repeat.length)
    bindings = [node.binding for place in inside for node in pieces.own[place]]
    outputs = repeat.handed_out(steps, window)
    function = as_function([*window.inputs, *window.weights], bindings, outputs)
    taken = {str(variable.name_hint) for variable in module.functions}
    name = next(n for i in itertools.count() if (n := f"layer_{i}") not in taken)
    attributes = {LAYER: True, INPUTS: len(window.inputs), "global_symbol": name}
    variable = GlobalVar(name)
    relax.expr._update_type(variable, function.ty)
    module.update_func(variable, function.with_attrs(attributes))
    return variable
