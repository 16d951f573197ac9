"""Trace a Relax function with JAX and serialize it; equal functions give equal bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.mlir import deserialize_portable_artifact, ir, passmanager
from jax.extend.mlir import serialize_portable_artifact as serialize
from jax.extend.mlir.dialects import stablehlo
from tvm import relax
from tvm.ir.expr import Var

from nexus_compiler.codegen.xla.program import Program
from nexus_compiler.codegen.xla.translate import evaluate
from nexus_runtime.errors import UnsupportedOperator


def export_function(program: Program, *, platforms: Sequence[str], precision: str) -> bytes:
    """`program` as a `jax.export` blob (StableHLO with symbolic dimensions, versioned).

    Args:
        program: a Relax function of tensors.
        platforms: what it shall run on ("cpu", "tpu", "cuda", ...).
        precision: of products of floats: "default", "high" or "highest".

    Raises:
        UnsupportedOperator: a parameter is no tensor, or an operator has no translation.
    """

    def main(*arguments: Any) -> tuple[Any, ...]:
        return evaluate(program, arguments)

    # Both are scoped to this thread and this call: 64-bit integers must stay 64-bit.
    with jax.enable_x64(True), jax.default_matmul_precision(precision):
        exported = export.export(jax.jit(main), platforms=list(platforms))(*_arguments(program))
        return bytes(_without_locations(exported).serialize())


def _arguments(program: Program) -> list[jax.ShapeDtypeStruct]:
    sizes = _symbols(program)
    return [
        jax.ShapeDtypeStruct(
            tuple(_size(dim, sizes) for dim in kind.shape.values), jnp.dtype(str(kind.dtype))
        )
        for kind in _tensor_types(program)
    ]


def _tensor_types(program: Program) -> Iterator[Any]:
    for parameter in program.function.params:
        kind = parameter.ty
        if not isinstance(kind, relax.TensorType) or getattr(kind.shape, "values", None) is None:
            raise UnsupportedOperator(
                f"parameter '{parameter.name}' of function '{program.name}' is {kind}",
                hint="pass tensors whose rank and dtype are known",
            )
        yield kind


def _symbols(program: Program) -> dict[Any, Any]:
    """A JAX dimension for each symbolic one, named by its order: names do not enter the blob."""
    found: dict[Any, None] = {}
    for kind in _tensor_types(program):
        for dim in kind.shape.values:
            found.update(dict.fromkeys(_variables(dim)))
    if not found:
        return {}
    names = ", ".join(f"d{position}" for position in range(len(found)))
    return dict(zip(found, export.symbolic_shape(names)))


def _variables(dim: Any) -> Iterator[Any]:
    if isinstance(dim, Var):
        yield dim
    elif hasattr(dim, "a"):
        yield from _variables(dim.a)
        yield from _variables(dim.b)


def _size(dim: Any, sizes: dict[Any, Any]) -> Any:
    if isinstance(dim, Var):
        return sizes[dim]
    kind = type(dim).__name__
    if kind == "IntImm":
        return int(dim.value)
    left, right = _size(dim.a, sizes), _size(dim.b, sizes)
    if kind == "Mul":
        return left * right
    if kind in ("Add", "Sub"):
        return left + right if kind == "Add" else left - right
    raise UnsupportedOperator(
        f"an input has the size {dim}", hint="inputs may have sums and products of sizes"
    )


def _without_locations(exported: export.Exported) -> export.Exported:
    """JAX writes the paths and lines of our own Python files into the module: take them out."""
    context = ir.Context()
    stablehlo.register_dialect(context)
    module = deserialize_portable_artifact(exported.mlir_module_serialized, context)
    with context:
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
    # The same version that `jax.export` asks for: readers may be four weeks older.
    version = stablehlo.get_version_from_compatibility_requirement(
        stablehlo.StablehloCompatibilityRequirement.WEEK_4
    )
    return dataclasses.replace(exported, mlir_module_serialized=serialize(module, version))
