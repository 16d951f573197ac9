"""Handlers of Relax operators, one file per family."""
