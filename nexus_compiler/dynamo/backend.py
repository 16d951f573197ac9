"""The backend: AOTAutograd makes graphs of forward and backward, we compile each.

Nothing falls back silently: an operator without a translation ends `torch.compile` with an error
that names it, unless `options={"fallback": "eager"}` asks for PyTorch's own kernels instead.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._dynamo import config
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.utils._python_dispatch import (
    _disable_current_modes,  # pyright: ignore[reportPrivateUsage]
)

from nexus_compiler.dynamo import record
from nexus_compiler.dynamo.graph import compile_graph
from nexus_compiler.frontend.torch import decompositions
from nexus_runtime.errors import NexusError, UserError, nearest

_LOG = logging.getLogger(__name__)

# Without this, Dynamo runs every nn.LSTM, nn.GRU and nn.RNN in eager mode and says nothing.
config.allow_rnn = True


@dataclasses.dataclass(frozen=True)
class Options:
    """What `torch.compile(..., options={...})` may hold.

    Attributes:
        fallback: "error", or "eager" to run what cannot be compiled with PyTorch, with a warning.
        target: what to build for; this machine must be able to run it.
        store: a directory for built objects; by default the user's cache directory.
        jobs: objects that are built at once; by default one a core.
        num_threads: threads for one call; by default one a core.
    """

    fallback: str = "error"
    target: str = "native"
    store: str | Path | None = None
    jobs: int | None = None
    num_threads: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Check and take what the user gave.

        Raises:
            UserError: an option is unknown, or `fallback` is neither "error" nor "eager".
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(given) - set(names)):
            raise UserError(
                f"backend \"nexus\" has no option '{unknown[0]}'", hint=nearest(unknown[0], names)
            )
        options = cls(**given)
        if options.fallback not in {"error", "eager"}:
            raise UserError(
                f"fallback is '{options.fallback}'", hint="it can be 'error' or 'eager'"
            )
        return options


def nexus(
    module: torch.fx.GraphModule,
    inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile one graph of Dynamo's; `torch.compile(backend="nexus")` calls this.

    Raises:
        UserError: an option is unknown.
        UnsupportedOperator: the graph holds operators without a translation; all are listed.
    """
    del mode  # the modes of torch.compile are about Inductor's own tuning
    chosen = Options.of(options or {})
    compilers = {
        f"{short}_compiler": functools.partial(_compile, kind, chosen)
        for short, kind in (("fw", "forward"), ("bw", "backward"), ("inference", "inference"))
    }
    # Recurrent cells and attention in their parts, and not as kernels of a library.
    library = torch._C._get_mkldnn_enabled()  # pyright: ignore
    torch._C._set_mkldnn_enabled(False)  # pyright: ignore
    try:
        backend = aot_autograd(**compilers, decompositions=decompositions.table())
        return backend(module, inputs)
    finally:
        torch._C._set_mkldnn_enabled(library)  # pyright: ignore


def _compile(
    kind: str, options: Options, module: torch.fx.GraphModule, inputs: Sequence[Any]
) -> Callable[..., Any]:
    del inputs  # the placeholders carry their fake tensors
    try:
        # AOTAutograd calls in its mode of tracing, in which constants could not be read.
        with _disable_current_modes():
            compiled, entry = compile_graph(module, kind, options)
    except NexusError as error:
        if options.fallback != "eager":
            raise
        warnings.warn(
            f"Nexus cannot compile a {kind} graph, PyTorch runs it: {error.message}", stacklevel=2
        )
        record.add(record.CompiledGraph.eager(kind, module, error.message))
        return make_boxed_func(module.forward)
    record.add(entry)
    _LOG.info("compiled %s", entry)
    return make_boxed_func(compiled)
