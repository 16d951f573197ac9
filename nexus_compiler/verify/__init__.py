"""Holding an artifact against an independent reference: inputs, the reference, comparison, timing."""
