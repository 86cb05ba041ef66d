"""isthmus repairs, evaluates and hardens neural networks along low-loss paths between them."""

import lazy_loader as lazy

from isthmus.runs.versions import __version__ as __version__

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
