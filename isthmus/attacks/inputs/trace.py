"""What a run of attacks noticed about itself, so that a number that proves nothing is not believed.

A network whose gradient in its inputs is zero (rounded inputs, saturated outputs) looks robust to
every attack that climbs along it (Athalye et al., ICML 2018, section 5.2). Whatever runs attacks
reads this from a `Trace`; without a reader, an attack gives notice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from isthmus.runs.notices import Notice


class ZeroGradients(Notice):
    """Most samples have a gradient of zero: an attack that climbs along it could not move them."""


@dataclass
class Trace:
    """Counts over the attacks of a block.

    `samples` were attacked along their gradient, `blind` of them had a gradient of zero at every
    step. `gradient_free` says that an attack without gradients ran as well: its answer stands.
    """

    samples: int = 0
    blind: int = 0
    gradient_free: bool = False

    @property
    def warning(self) -> str | None:
        """One line for the user, with the way out; None where there is nothing to say."""
        if self.gradient_free or 2 * self.blind <= self.samples:
            return None
        whose = "all" if self.blind == self.samples else "most of the"
        return (
            f"the gradient in the input is zero for {whose} attacked samples, which no attack "
            "along the gradient can move: this robustness proves nothing; attack with Square, "
            "which needs no gradient (--attack square)"
        )

    def add(self, other: Trace) -> None:
        """Count another block's attacks as well."""
        self.samples += other.samples
        self.blind += other.blind
        self.gradient_free |= other.gradient_free


_reader: ContextVar[Trace | None] = ContextVar("the trace of the innermost block", default=None)


@contextmanager
def recorded() -> Iterator[Trace]:
    """Run a block and yield the trace of the attacks in it, in place of their warnings.

    A block inside another one counts in both.

    >>> with recorded() as trace:
    ...     pass  # attacks
    >>> trace.warning is None
    True
    """
    outer = _reader.get()
    trace = Trace()
    token = _reader.set(trace)
    try:
        yield trace
    finally:
        _reader.reset(token)
        if outer is not None:
            outer.add(trace)


@contextmanager
def reporting() -> Iterator[Trace]:
    """Run one attack and yield its trace, which goes to the reader around it or is warned about."""
    with recorded() as trace:
        yield trace
    if _reader.get() is None and trace.warning is not None:
        warnings.warn(trace.warning, ZeroGradients, stacklevel=2)


def note_gradient_free() -> None:
    """Tell the trace of this block that an attack without gradients runs."""
    trace = _reader.get()
    if trace is not None:
        trace.gradient_free = True
