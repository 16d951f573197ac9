"""Measures where analysis is not sure which kernel is the fastest."""
