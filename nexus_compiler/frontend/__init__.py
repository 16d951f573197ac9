"""Frontends: each turns one kind of model into a captured graph."""
