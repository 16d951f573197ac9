"""Writes the next value of a parameter or a state over the present one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm_ffi
from tvm import IRModule, ir, relax, tirx

from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.codegen.llvm import views
from nexus_compiler.codegen.llvm.schedules import kernel
from nexus_compiler.ir.bodies import with_block
from nexus_compiler.passes.base import Pass, entries
from nexus_compiler.passes.weights import DONATED

_CALL = "relax.call_tir"


@dataclass(frozen=True)
class Donate(Pass):
    """Kernels whose result may take the memory of an operand write to it; stands behind schedules.

    Such a kernel reads the operand only where it then writes. It runs as soon as its operands are
    there and nobody else needs the old value.
    """

    name: ClassVar[str] = "donate"
    leaves: ClassVar[str] = "lowered"

    def apply(self, module: IRModule) -> IRModule:
        """Rewrite the functions that say which memory their outputs may take."""
        updated = IRModule(dict(module.functions.items()), attrs=module.attrs)
        for variable, function in module.functions.items():
            if isinstance(function, relax.Function) and DONATED in (function.attrs or {}):
                updated.update_func(variable, _Rewriter(updated, function).rewritten())
        return relax.transform.DeadCodeElimination(entries(module))(updated)


def donated(module: IRModule, kernels: Mapping[str, Kernel]) -> IRModule:
    """`module`, which calls `kernels` by their parameters alone, after the pass."""
    if not any(DONATED in (function.attrs or {}) for function in module.functions.values()):
        return module
    whole = {
        variable: kernels[name].load() if (name := str(variable.name_hint)) in kernels else function
        for variable, function in module.functions.items()
    }
    return Donate().apply(IRModule(whole, attrs=module.attrs))


@dataclass(frozen=True)
class _Gift:
    """A call whose result takes the place of its operand number `place`."""

    binding: relax.VarBinding
    taken: relax.Var
    place: int


class _Rewriter:
    def __init__(self, module: IRModule, function: relax.Function) -> None:
        self._module, self._function = module, function
        self._made: dict[tuple[ir.GlobalVar, int], ir.GlobalVar] = {}
        self._roots: dict[relax.Var, relax.Var] = {}

    def rewritten(self) -> relax.Function:
        """The function with calls that write in place; as it is where it has control flow."""
        function = self._function
        blocks = function.body.blocks
        if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
            return function
        *bindings, last = blocks[0].bindings
        self._roots = self._views(bindings)
        if not isinstance(last.value, relax.Tuple):
            return function
        ordered = self._ordered(bindings, self._gifts(bindings, list(last.value.fields)))
        return with_block(function, [*ordered, last])

    def _views(self, bindings: list[Any]) -> dict[relax.Var, relax.Var]:
        """Variables whose memory may be that of another one, with that one."""
        found: dict[relax.Var, relax.Var] = {}
        for binding in bindings:
            call = binding.value
            if isinstance(call, relax.Call) and getattr(call.op, "name", "") == _CALL:
                operands = call.args[1].fields
                if len(operands) == 1 and views.is_view(self._module[call.args[0]]):
                    found[binding.var] = found.get(operands[0], operands[0])
        return found

    def _read(self, binding: Any) -> set[relax.Var]:
        """What `binding` reads, and whose memory that is."""
        read = set(relax.analysis.free_vars(binding.value))
        return read | {self._roots[variable] for variable in read if variable in self._roots}

    def _gifts(self, bindings: list[Any], fields: list[Any]) -> dict[relax.Var, _Gift]:
        makers = {binding.var: binding for binding in bindings}
        found: dict[relax.Var, _Gift] = {}
        for field, number in zip(fields, self._function.attrs[DONATED]):
            binding = makers.get(field)
            if int(number) < 0 or binding is None or field in found:
                continue
            gift = self._gift(binding, self._function.params[int(number)])
            if gift is not None:
                found[field] = gift
        return found

    def _gift(self, binding: relax.VarBinding, taken: relax.Var) -> _Gift | None:
        call = binding.value
        if not isinstance(call, relax.Call) or getattr(call.op, "name", "") != _CALL:
            return None
        operands, kernel_ = list(call.args[1].fields), self._module[call.args[0]]
        roots = [self._roots.get(operand, operand) for operand in operands]
        places = [i for i, root in enumerate(roots) if root.same_as(taken)]
        if (
            len(places) != 1
            or not operands[places[0]].same_as(taken)
            or len(call.args) > 2
            or len(kernel_.params) != len(operands) + 1
        ):
            return None
        fits = _in_step(kernel_, kernel_.params[places[0]], kernel_.params[-1])
        return _Gift(binding, taken, places[0]) if fits else None

    def _ordered(self, bindings: list[Any], gifts: dict[relax.Var, _Gift]) -> list[Any]:
        """All bindings, those of `gifts` behind whatever reads what they write over."""
        readers = {gift.taken: 0 for gift in gifts.values()}
        for binding in bindings:
            for variable in self._read(binding):
                if variable in readers:
                    readers[variable] += 1
        free = {binding.var for binding in bindings}
        ordered: list[Any] = []
        waiting: list[Any] = []

        def emit(binding: Any) -> bool:
            gift, operands = gifts.get(binding.var), self._read(binding)
            if operands & free or (gift is not None and readers[gift.taken] > 1):
                return False
            ordered.append(binding if gift is None else self._call(gift))
            free.remove(binding.var)
            for variable in operands & readers.keys():
                readers[variable] -= 1
            return True

        for binding in bindings:
            waiting.append(binding)
            while any(emitted := [emit(one) for one in waiting]):
                waiting = [one for one, gone in zip(waiting, emitted) if not gone]
        while waiting:  # two wait for each other: one has to copy
            gifts = {v: g for v, g in gifts.items() if v != waiting[0].var}
            waiting = [one for one in waiting if not emit(one)]
        return ordered

    def _call(self, gift: _Gift) -> relax.VarBinding:
        call = gift.binding.value
        key = (call.args[0], gift.place)
        if key not in self._made:
            self._made[key] = self._in_place(*key)
        operands = relax.Tuple(call.args[1].fields)
        changed = relax.op.call_tir_inplace(
            self._made[key], operands, [gift.place], call.ty_args[0]
        )
        return relax.VarBinding(gift.binding.var, changed)

    def _in_place(self, callee: ir.GlobalVar, place: int) -> ir.GlobalVar:
        old = self._module[callee]
        *params, output = old.params
        names = {output: params[place]}
        body = tvm_ffi.structural_map(old.body, (tirx.Var, lambda v: names.get(v, v)))
        changed = tirx.PrimFunc(params, body, old.ret_type, old.attrs)
        variable = ir.GlobalVar(f"{callee.name_hint}_in_place{place}")
        relax.expr._update_type(variable, changed.ty)
        self._module.update_func(variable, changed)
        return self._module.get_global_var(variable.name_hint)


def _in_step(function: tirx.PrimFunc, taken: Any, output: Any) -> bool:
    """Whether `function` reads `taken` only to write `output` at the same place."""
    if not tvm_ffi.structural_equal(taken.ty, output.ty):
        return False
    places: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(function.body, (tirx.BufferStore, places.append))
    fine = [
        load
        for store in places
        if store.buffer.same_as(output)
        for load in kernel.loads(store.value, taken)
        if len(load.indices) == len(store.indices)
        and all(map(kernel.same, load.indices, store.indices))
    ]
    return len(fine) == len(kernel.loads(function.body, taken)) and not kernel.loads(
        function.body, output
    )
