"""Between two networks: the curve, the network at a point of it, the plane through three,
`connect`.

A point on a curve is a network, so nothing here measures: metrics are to the right. A new curve is
a subclass of `Curve` that gives its coefficients.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
