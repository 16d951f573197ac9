"""Capture of PyTorch models, whole or as the graphs that `torch.compile` cuts.

The way of a model: `exported.py` lets `torch.export` trace it, `decompositions.py` says which
operators it is brought down to, and `importer.py` walks the nodes and hands each to the handler of
its operator family. `nexus_compiler/dynamo` brings its graphs to the same importer.
A new operator is one function with `@op(...)` in the file of its family.

Imports in this package are absolute: `torch` is PyTorch.
"""

from nexus_compiler.frontend.torch.exported import capture
from nexus_compiler.frontend.torch.parts import Memory

__all__ = ["Memory", "capture"]
