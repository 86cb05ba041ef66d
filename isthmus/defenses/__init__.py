"""What a defender does with a tampered network and bonafide samples: repair it, inspect it.

No trigger comes in here: no file imports from `attacks`, nor the other way. A new defense is a file
in `rivals/` and a line in its table.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
