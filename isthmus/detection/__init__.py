"""Distance of inputs to trusted data: scores, thresholds that state what they promise, and the
evaluation against an attack, noise, and an attacker who knows the detector.

No attack comes in: the evaluation takes it as a value of the `Attack` protocol. A new score is a
file beside these and a row in `table.py`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
