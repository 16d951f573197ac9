"""Capture of ONNX models.

The way of a model: `model.py` reads and checks it, `inputs.py` settles the shapes of its inputs,
`importer.py` walks its nodes. For each node, `host.py` computes what depends on shapes alone (such
values never reach the graph), and the handlers of the operator families emit Relax for the rest.
A new operator is one function with `@op(...)` in the file of its family.
"""

from nexus_compiler.frontend.onnx.importer import capture

__all__ = ["capture"]
