"""`nexus-agent` for tests: the same worker, over the NumPy model of scheduler_model.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import scheduler_model

from nexus_runtime.cli import main
from nexus_runtime.scheduler import worker

worker.Worker.__init__.__kwdefaults__["load"] = scheduler_model.load
sys.exit(main())
