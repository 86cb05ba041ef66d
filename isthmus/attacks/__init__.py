"""What an attacker does: to inputs, with triggers, in training (backdoors), and to weights.

No file here imports from `defenses`, nor the other way: they meet in `evidence`. A new attack on
inputs is a file in `inputs/`, a new trigger a file in `triggers/`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
