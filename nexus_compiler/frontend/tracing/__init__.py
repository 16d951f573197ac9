"""Define-by-run: ordinary Python over arrays that write down what is done to them."""

from nexus_compiler.frontend.tracing.array import Array
from nexus_compiler.frontend.tracing.nodes import Graph, Node
from nexus_compiler.frontend.tracing.recorder import Recorder

__all__ = ["Array", "Graph", "Node", "Recorder"]
