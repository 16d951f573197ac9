"""Executors: each runs one kind of module."""
