"""Networks that come with the package, one file a family: a new one is a factory and a line in the
stub beside this.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
