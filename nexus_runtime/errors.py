"""The errors that a user of Nexus can meet.

Each says what happened, at which place, and what to do: `message` is one sentence, `hint` the cure.
`UserError` is the user's to mend (exit status 1); `InternalError` is ours (exit status 2).
The compiler raises these too, so that one `except NexusError` covers both packages.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NexusError(Exception):
    """Root of all errors that Nexus raises on purpose.

    Attributes:
        message: what happened, naming the value that caused it.
        hint: what the user can do about it, or "" where nothing is known.
    """

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UserError(NexusError):
    """The input, an option or the machine does not fit; the user can mend it."""

    exit_status = 1


class InternalError(NexusError):
    """Nexus broke one of its own rules; the message says which."""


# Reading and running artifacts
class ArtifactError(UserError):
    """An artifact is missing, damaged, from the future, or not what its manifest says."""


class InputError(UserError):
    """An array does not fit the signature: name, dtype, rank or dimension."""


class DeviceError(UserError):
    """No module of the artifact fits this machine, or an executor lacks what it needs."""


# Capturing and compiling
class CaptureError(UserError):
    """A model could not be read or turned into a graph."""


class UnsupportedOperator(CaptureError):
    """The model holds an operator that has no translation."""


class NeedsConstant(UnsupportedOperator):
    """A value must be known while compiling; freezing an input to it makes it so.

    Attributes:
        name: what the model calls the value.
    """

    def __init__(self, message: str, *, hint: str = "", name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name


class ShapeError(UserError):
    """Shapes do not fit each other, or a `--shape` does not fit the model."""


class TargetError(UserError):
    """A target is unknown, or its description or its toolchain is incomplete."""


# Training together
class DataError(UserError):
    """A data set cannot be read."""


class SchedulerError(UserError):
    """A job cannot go on: no worker is left, a peer was refused, a limit was passed."""


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> str:
    """A hint that names the `known` words nearest to `word`, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=count, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
