"""ONNX's own tests of single operators, run through the whole compiler.

`cases.py` collects them, `worker.py` judges one in a process of its own, `runner.py` keeps the
processes, `report.py` counts.
"""
