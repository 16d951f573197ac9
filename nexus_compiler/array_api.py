"""The namespace of the Python array API standard (2024.12) over arrays that trace themselves.

What is asked for is computed: inside of `nexus_compiler.jit` by regions of the function, outside by
whatever was written down since the last value was asked for. See docs/array-api.md.
"""

from nexus_compiler.define_by_run.engine import engine as _engine
from nexus_compiler.frontend.tracing.functions import *  # noqa: F403

__array_api_version__ = "2024.12"
_engine()
