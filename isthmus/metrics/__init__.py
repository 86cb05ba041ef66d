"""Questions about one network, `Module -> float`, along a path and on a plane; values carry their
intervals.

The data that a question asks about are part of the question. A new metric is a class with
`__call__(model)`."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
