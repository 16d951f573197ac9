"""From the shards of a round to the gradient of its batch.

The gradient of a batch is the sum over all samples divided by their number. A mean of the shards'
means is wrong as soon as shards differ in size (pytorch#67253); sums do not have that trap. Shards
are added in the order of their rows, whatever the order of their arrival, so that a round gives the
same bits every time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nexus_runtime.errors import SchedulerError
from nexus_runtime.trainer import Gradients, total


def combine(shards: Sequence[Gradients], count: int) -> tuple[Gradients, dict[str, np.ndarray]]:
    """Add `shards` in order; return the sums, and the means over the `count` samples of the batch.

    Raises:
        SchedulerError: the shards are not `count` samples, or the loss is not finite.
    """
    sums = total(shards)
    if sums.count != count:
        raise SchedulerError(f"the shards hold {sums.count} samples, but the batch has {count}")
    if not math.isfinite(sums.loss_sum):
        raise SchedulerError(
            f"the loss became {sums.loss_sum}",
            hint="lower learning_rate, or look for infinite values in the data",
        )
    means = {name: grad / grad.dtype.type(count) for name, grad in sums.grads.items()}
    return sums, means
