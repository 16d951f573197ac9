"""`torch.compile(model, backend="nexus")`: inference and training, through Nexus's own kernels.

Importing this package imports PyTorch. `torch.compile` finds the backend by its entry point;
`import nexus_compiler.dynamo` is only needed for `report` and `reset`.
"""

from nexus_compiler.dynamo.backend import nexus
from nexus_compiler.dynamo.record import CompiledGraph, Frame, Report, report, reset

__all__ = ["CompiledGraph", "Frame", "Report", "nexus", "report", "reset"]
