"""The room for XLA: Relax to JAX operations to `jax.export`.

This module imports no JAX, so that the room can say that JAX is missing.
"""

from nexus_compiler.codegen.door import Room
from nexus_compiler.codegen.xla.xla_room import XlaRoom


def room() -> Room:
    """The room for targets of kind "xla"."""
    return XlaRoom()
