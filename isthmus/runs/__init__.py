"""Where and how work runs: devices, ranks, files, folders, progress, identity, versions.

Nothing here knows what a network, a data set or a curve is. A new way to run work (a sweep, a
cluster) goes here.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
