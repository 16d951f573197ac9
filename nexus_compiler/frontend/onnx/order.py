"""Which elements come before which, in types that TVM can sort."""

from __future__ import annotations

import numpy as np
from tvm import relax

from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.values import R

_WIDE = {
    **dict.fromkeys(("bool", "uint8", "int8", "int16", "uint16"), "int32"),
    **dict.fromkeys(("float16", "bfloat16"), "float32"),
    "uint32": "int64",
}


def sortable(node: Node, x: relax.Expr) -> relax.Expr:
    """Elements in the order of those of `x`, in a type that TVM sorts."""
    dtype = node.dtype(x)
    if dtype == "uint64":
        # With the highest bit flipped, signed numbers are in the order of the unsigned ones.
        signed = node.emit(R.memory.view(x, node.shape(x), "int64"))
        return node.emit(R.bitwise_xor(signed, node.scalar(np.iinfo("int64").min, "int64")))
    return node.emit(R.astype(x, _WIDE[dtype])) if dtype in _WIDE else x
