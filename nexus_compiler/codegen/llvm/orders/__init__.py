"""Kernels that put the elements of rows in order, and running sums and products."""
