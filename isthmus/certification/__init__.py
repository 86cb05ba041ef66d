"""Bounds of what a network answers on all inputs of a ball: certifiers, the loss that trains for
them, and certified accuracy.

No attack comes in: an attack says what was found, a certifier what cannot be. A new certifier is a
file beside these, a line in the stub, and a row in `table.py`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
