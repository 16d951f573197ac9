"""The fluent frontend: networks that are typed by hand, checked call by call."""

from nexus_compiler.frontend.builder.builder import GraphBuilder

__all__ = ["GraphBuilder"]
