"""Labeled samples: in memory or mapped, where they come from, how far one may move (balls).

No networks here. A new file format is a reader in `sources/`; a new norm is a class in `balls`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
