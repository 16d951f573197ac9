"""Capture of ONNX models."""
