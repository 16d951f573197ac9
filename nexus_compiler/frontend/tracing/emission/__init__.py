"""From a region to Relax; only this folder of the frontend needs TVM."""

from nexus_compiler.frontend.tracing.emission.region import Pattern, capture

__all__ = ["Pattern", "capture"]
