"""What came of it: the judge, the comparison, the record, figures and the page.

The first room that knows both attacks and defenses. Nothing here changes a network.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
