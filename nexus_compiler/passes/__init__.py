"""Passes: one file each; `pipelines.py` holds the lists."""
