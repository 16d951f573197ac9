"""What PyTorch assumed about sizes while it traced, as conditions for the signature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod
from torch.utils._sympy.value_ranges import ValueRanges

from nexus_compiler.frontend.torch.sizes import Dims
from nexus_runtime import guards as conditions
from nexus_runtime.errors import CaptureError

_LIBRARY = str(Path(torch.__file__).parent)


def of_program(program: Any, dims: Dims) -> tuple[str, ...]:
    """The conditions under which the graph of `program` is right, over the names of `dims`.

    These are the bounds of `Dim`s, `torch._check`s, branches of the model on sizes, and what its
    operators ask of them (a reshape that divides a size).

    Raises:
        CaptureError: a condition cannot be written for the runtime.
    """
    found: dict[str, None] = dict.fromkeys(dims.conditions)
    for size, bounds in program.range_constraints.items():
        for relation in _bounds(dims.own(size), bounds):
            _add(found, relation, dims)
    environment = shape_environment(program.graph_module)
    if environment is None:
        return tuple(found)
    for guard in environment.guards:
        relation = guard.expr.xreplace(environment.replacements)
        if not _only_about_layout(relation, guard.sloc):
            _add(found, relation, dims)
    for asserts in environment.deferred_runtime_asserts.values():
        for one in asserts:
            _add(found, one.expr.xreplace(environment.replacements), dims)
    return tuple(found)


def shape_environment(module: torch.fx.GraphModule) -> Any:
    """What PyTorch knows of the symbols in the shapes of `module`; None where it has none."""
    for node in module.graph.nodes:
        fake = node.meta.get("val")
        for size in fake.shape if isinstance(fake, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                return size.node.shape_env
    return None


def _bounds(symbol: Any, bounds: ValueRanges[Any]) -> Iterator[Any]:
    if isinstance(symbol, sympy.Symbol):
        if isinstance(bounds.lower, sympy.Integer) and bounds.lower > 0:
            yield sympy.Ge(symbol, bounds.lower, evaluate=False)
        if isinstance(bounds.upper, sympy.Integer):
            yield sympy.Le(symbol, bounds.upper, evaluate=False)


def _add(found: dict[str, None], relation: Any, dims: Dims) -> None:
    relation = _plainer(relation)
    if relation in {sympy.true, sympy.false} or not relation.free_symbols <= dims.known:
        return  # settled while tracing, or about sizes that depend on data
    text = dims.text(relation)
    try:
        conditions.dimensions(str(text))
    except ValueError as error:
        raise CaptureError(
            f"the model is right only where {text}, which the runtime cannot check: {error}",
            hint="make the sizes in it fixed, or calculate with whole numbers",
        ) from error
    found[str(text)] = None


def _plainer(relation: Any) -> Any:
    """The ways in which PyTorch says that a size is a multiple of a number, as one."""
    if not isinstance(relation, sympy.Eq):
        return relation
    sides: tuple[Any, ...] = relation.args
    one, other = sides
    if isinstance(one, Mod | PythonMod) and other == 0 and isinstance(one.args[1], sympy.Integer):
        whole: Any = one.args[0]
        modulus, (factor, rest) = int(one.args[1]), whole.as_coeff_Mul()
        common = math.gcd(int(factor), modulus)
        if common == modulus:
            return sympy.true
        if common > 1:
            return sympy.Eq(Mod(int(factor) // common * rest, modulus // common), 0)
    (factor, x), (multiple, part) = [side.as_coeff_Mul() for side in sides]
    if isinstance(part, FloorDiv) and part.args[0] == x and multiple == factor * part.args[1]:
        return sympy.Eq(Mod(x, part.args[1]), 0)
    return relation


def _only_about_layout(relation: Any, place: Any) -> bool:
    """Whether PyTorch asked only to choose strides for a result, which compiled code has not.

    Such questions are asked by PyTorch itself: whether a size is 1, or how it divides by a part
    of itself. A branch in the user's code is always a condition.
    """
    frame = getattr(place, "framework_loc", None)
    if _LIBRARY not in str(getattr(frame, "filename", "")):
        return False
    divisors = [
        part.args[1] for part in relation.atoms(FloorDiv, Mod, PythonMod) if len(part.args) > 1
    ]
    if isinstance(relation, sympy.Ne) or any(one.has(FloorDiv) for one in divisors):
        return True
    if any(one.has(FloorDiv) for one in relation.atoms(sympy.Max)):
        return True
    lower = relation.lts if isinstance(relation, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt) else 3
    return isinstance(lower, sympy.Integer) and lower <= 2
