"""How weights are changed by gradients: `fit`, losses, schedules, budgets.

Training differs only in its loss: a new way to train is a loss `(model, x, y) -> scalar`, not
another loop.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
