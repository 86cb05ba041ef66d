"""One network: built (`zoo/`), loaded, called under any weights, its BatchNorm, its channels.

Nothing here trains. A new architecture needs nothing here, unless it should come with the package:
then it is a file in `zoo/`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
