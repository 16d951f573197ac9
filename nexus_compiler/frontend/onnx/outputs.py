"""What a model returns: tensors, whose sizes have names even where only a run tells them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tvm import relax

from nexus_compiler.frontend.onnx import subgraph
from nexus_compiler.frontend.onnx.values import tensor_type
from nexus_compiler.ir.sizes import text
from nexus_runtime.errors import CaptureError
from nexus_runtime.signature import TensorSpec

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.importer import Importer


def settle(importer: Importer, name: str, value: relax.Expr) -> relax.Expr:
    """`value`, in which a size that depends on data is one new dimension, named after the output.

    Raises:
        CaptureError: not even the number of dimensions is known.
    """
    shape = tensor_type(value).shape
    if shape is None:
        raise CaptureError(
            f"the shape of output '{name}' cannot be told", hint="fix the inputs with `shapes=`"
        )
    sizes = importer.sizes.shape(shape.values)
    unknown = importer.unknowns[-1]
    if not any(subgraph.variables(size) & unknown for size in sizes):
        return value
    label = re.sub(r"\W+", "_", name, flags=re.ASCII)
    label = label if label.isidentifier() else f"output_{label}"
    settled = [
        importer.unknown(f"{label}_{axis}") if subgraph.variables(size) & unknown else size
        for axis, size in enumerate(sizes)
    ]
    matched = importer.match(importer.emit(value), settled)
    return importer.labelled(matched, importer.dtype(value))


def spec(importer: Importer, name: str, value: relax.Expr) -> TensorSpec:
    """Name, element type and dimensions of an output."""
    kind = tensor_type(value)
    dims = tuple(text(size) for size in importer.sizes.shape(kind.shape.values))
    return TensorSpec(name, importer.dtype(value), dims)
