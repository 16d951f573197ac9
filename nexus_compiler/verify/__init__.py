"""Holding an artifact against a reference: inputs, the reference, comparison, timing."""
