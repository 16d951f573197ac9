"""Initial weights: how they are drawn, by name or by value.

A layer's `init=` takes a name of `NAMED` ("he_normal"), a number (every value is that), or one of
the classes here with its own figures (`Normal(std=0.02)`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from nexus_runtime.errors import UserError, nearest


@dataclass(frozen=True)
class Initializer(ABC):
    """Draws the first values of a weight."""

    @abstractmethod
    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """Values of `shape`, float64; `fans` are the values that go into and out of one unit."""


@dataclass(frozen=True)
class Normal(Initializer):
    """A normal distribution."""

    std: float = 0.05
    mean: float = 0.0

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """See the class."""
        return random.standard_normal(shape) * self.std + self.mean


@dataclass(frozen=True)
class Uniform(Initializer):
    """Evenly between `low` and `high`."""

    low: float = -0.05
    high: float = 0.05

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """See the class."""
        return self.low + (self.high - self.low) * random.random(shape)


@dataclass(frozen=True)
class Constant(Initializer):
    """Every value is `value`."""

    value: float = 0.0

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """See the class."""
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Scaled(Initializer):
    """Variance `gain` / fan, so that signals keep their size from layer to layer.

    Gain 2 over the fan in is He et al. 2015, gain 1 over the mean of both fans Glorot and Bengio
    2010, gain 1 over the fan in LeCun et al. 1998.
    """

    gain: float
    both_fans: bool = False
    uniform: bool = False

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """See the class."""
        fan = (fans[0] + fans[1]) / 2 if self.both_fans else fans[0]
        std = (self.gain / fan) ** 0.5
        if self.uniform:
            return (2 * random.random(shape) - 1) * (std * 3**0.5)
        return random.standard_normal(shape) * std


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """Orthonormal columns, or rows where there are fewer (Saxe et al. 2014), times `gain`.

    The weight counts as a matrix of its first dimension by all others.
    """

    gain: float = 1.0

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], fans: tuple[int, int]
    ) -> np.ndarray:
        """See the class."""
        if len(shape) < 2:
            raise UserError(f"an orthogonal weight has two dimensions or more, not {shape}")
        rows, columns = shape[0], int(np.prod(shape[1:]))
        tall = random.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(tall)
        q = q * np.sign(np.diagonal(r))  # makes the distribution uniform (Mezzadri 2007)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


ZEROS, ONES, SMALL = Constant(0.0), Constant(1.0), Normal(0.05)
HE_NORMAL = Scaled(2.0)
GLOROT_UNIFORM = Scaled(1.0, both_fans=True, uniform=True)

NAMED: dict[str, Initializer] = {
    "glorot_normal": Scaled(1.0, both_fans=True),
    "glorot_uniform": GLOROT_UNIFORM,
    "he_normal": HE_NORMAL,
    "he_uniform": Scaled(2.0, uniform=True),
    "lecun_normal": Scaled(1.0),
    "normal": Normal(),
    "ones": ONES,
    "orthogonal": Orthogonal(),
    "uniform": Uniform(),
    "zeros": ZEROS,
}

Init = str | float | Initializer | None
"""What a layer's `init=` takes; None is the layer's own."""


def resolve(given: Init, default: Initializer) -> Initializer:
    """The initialiser that `given` means.

    Raises:
        UserError: there is none of this name.
    """
    if given is None:
        return default
    if isinstance(given, Initializer):
        return given
    if isinstance(given, str):
        if given not in NAMED:
            raise UserError(f"unknown initialiser '{given}'", hint=nearest(given, NAMED))
        return NAMED[given]
    return Constant(float(given))
