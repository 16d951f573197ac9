"""Writes the next value of a parameter or a state over the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm_ffi
from tvm import IRModule, ir, relax, tirx

from nexus_compiler.codegen.kernels import Kernel
from nexus_compiler.codegen.llvm import views
from nexus_compiler.codegen.llvm.schedules import ahead, kernel
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
    """A call of which some results take the places of operands.

    Attributes:
        binding: of the call.
        taken: the operands that are written over.
        places: for each result the number of the operand whose place it takes, or -1.
    """

    binding: relax.VarBinding
    taken: frozenset[relax.Var]
    places: tuple[int, ...]


class _Rewriter:
    def __init__(self, module: IRModule, function: relax.Function) -> None:
        self._module, self._function = module, function
        self._made: dict[tuple[ir.GlobalVar, tuple[int, ...]], ir.GlobalVar] = {}
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
        """By the variables of calls."""
        makers = {binding.var: binding for binding in bindings}
        wanted: dict[relax.Var, dict[int, relax.Var]] = {}
        met: set[relax.Var] = set()
        for field, number in zip(fields, self._function.attrs[DONATED]):
            if int(number) < 0 or field not in makers or field in met:
                continue
            met.add(field)
            binding, index = makers[field], 0
            if isinstance(binding.value, relax.TupleGetItem):
                index, whole = int(binding.value.index), binding.value.tuple_value
                if whole not in makers:
                    continue
                binding = makers[whole]
            wanted.setdefault(binding.var, {})[index] = self._function.params[int(number)]
        gifts = [self._gift(makers[variable], taken) for variable, taken in wanted.items()]
        return {gift.binding.var: gift for gift in gifts if gift is not None}

    def _gift(self, binding: relax.VarBinding, taken: dict[int, relax.Var]) -> _Gift | None:
        call = binding.value
        if not isinstance(call, relax.Call) or getattr(call.op, "name", "") != _CALL:
            return None
        operands, kernel_ = list(call.args[1].fields), self._module[call.args[0]]
        count = len(call.ty.fields) if isinstance(call.ty, relax.TupleType) else 1
        if len(call.args) > 2 or len(kernel_.params) != len(operands) + count:
            return None
        places = [
            self._place(kernel_, operands, taken[index], index) if index in taken else -1
            for index in range(count)
        ]
        given = frozenset(operands[place] for place in places if place >= 0)
        return _Gift(binding, given, tuple(places)) if given else None

    def _place(
        self, kernel_: tirx.PrimFunc, operands: list[Any], taken: relax.Var, index: int
    ) -> int:
        """Which operand is `taken` and may be written over by result `index`; -1 where none."""
        roots = [self._roots.get(operand, operand) for operand in operands]
        places = [i for i, root in enumerate(roots) if root.same_as(taken)]
        if len(places) != 1 or not operands[places[0]].same_as(taken):
            return -1
        outputs = list(kernel_.params[len(operands) :])
        fits = in_step(kernel_, kernel_.params[places[0]], outputs[index], outputs)
        return places[0] if fits else -1

    def _ordered(self, bindings: list[Any], gifts: dict[relax.Var, _Gift]) -> list[Any]:
        """All bindings, those of `gifts` behind whatever reads what they write over."""
        readers = {taken: 0 for gift in gifts.values() for taken in gift.taken}
        for binding in bindings:
            for variable in self._read(binding):
                if variable in readers:
                    readers[variable] += 1
        free = {binding.var for binding in bindings}
        ordered: list[Any] = []
        waiting: list[Any] = []

        def emit(binding: Any) -> bool:
            gift, operands = gifts.get(binding.var), self._read(binding)
            if operands & free or (gift is not None and any(readers[v] > 1 for v in gift.taken)):
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
        key = (call.args[0], gift.places)
        if key not in self._made:
            self._made[key] = self._in_place(*key)
        operands = relax.Tuple(call.args[1].fields)
        types = call.ty_args[0]
        outputs = list(types.fields) if isinstance(types, relax.TupleType) else types
        changed = relax.op.call_tir_inplace(self._made[key], operands, list(gift.places), outputs)
        return relax.VarBinding(gift.binding.var, changed)

    def _in_place(self, callee: ir.GlobalVar, places: tuple[int, ...]) -> ir.GlobalVar:
        old = self._module[callee]
        params = list(old.params[: len(old.params) - len(places)])
        outputs = list(old.params[len(params) :])
        names = {o: params[place] for o, place in zip(outputs, places) if place >= 0}
        params += [output for output in outputs if output not in names]
        body = tvm_ffi.structural_map(old.body, (tirx.Var, lambda v: names.get(v, v)))
        changed = tirx.PrimFunc(params, body, old.ret_type, old.attrs)
        told = "_".join(str(place) for place in places if place >= 0)
        variable = ir.GlobalVar(f"{callee.name_hint}_in_place{told}")
        relax.expr._update_type(variable, changed.ty)
        self._module.update_func(variable, changed)
        return self._module.get_global_var(variable.name_hint)


def in_step(function: tirx.PrimFunc, taken: Any, output: Any, outputs: Sequence[Any] = ()) -> bool:
    """Whether `function` reads `taken` only to write `output`, or another of its `outputs` before.

    What it reads is where it writes.
    """
    if not _alike(taken.ty, output.ty):
        return False
    body = ahead.without(function.body)
    places: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(body, (tirx.BufferStore, places.append))
    results = outputs or [output]
    stores = [s for s in places if any(s.buffer.same_as(one) for one in results)]
    fine = [
        load
        for store in stores
        for load in kernel.loads(store.value, taken)
        if len(load.indices) == len(store.indices)
        and all(map(kernel.same, load.indices, store.indices))
    ]
    if len(fine) != len(kernel.loads(body, taken)) or kernel.loads(body, output):
        return False
    own = [store.buffer.same_as(output) for store in stores]
    readers = [bool(kernel.loads(store.value, taken)) for store in stores]
    return _read_first(stores, own, readers)


def _alike(one: Any, other: Any) -> bool:
    """Whether two tensors lie alike."""
    if str(one.dtype) != str(other.dtype):
        return False
    equal = tvm_ffi.structural_equal
    return equal(one.shape, other.shape) and equal(one.strides, other.strides)


def _read_first(
    stores: Sequence[tirx.BufferStore], own: Sequence[bool], readers: Sequence[bool]
) -> bool:
    """Whether each element is read by others before the store that is `own` to it.

    Either all others come before, or the stores of one element stand next to each other.
    """
    others = [i for i, reads in enumerate(readers) if reads and not own[i]]
    if not others or max(others) < own.index(True):
        return True
    width = len({store.buffer for store in stores})
    groups = [stores[i : i + width] for i in range(0, len(stores), width)]
    for number, group in enumerate(groups):
        first, *rest = group
        if any(not all(map(kernel.same, first.indices, one.indices)) for one in rest):
            return False
        flags = range(number * width, number * width + len(group))
        mine = [i for i in flags if own[i]]
        if len(mine) != 1 or any(i > mine[0] for i in others if i in flags):
            return False
    return True
