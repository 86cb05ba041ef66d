"""Metrics: what a network answers, `Module -> float`; at a point, along a path, on a plane. Values
carry their unit and their interval.

The samples that a metric is about are part of it. What tampers with a network or repairs one does
not belong here. A new metric is a class derived from `Question` with a method `answer(passes)`,
and a row in the table of tests/metrics/test_every_metric.py; any other callable that takes a
network works too, but shares no passes with others.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
