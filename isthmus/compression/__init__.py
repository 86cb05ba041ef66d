"""Networks made smaller: weights or channels pruned, weights rounded to few levels, packed files.

No attack and no defense comes in: robustness enters as the loss that is trained on, and is measured
in `evidence`. A new pruning method is a file in `pruning/`, a new
way to quantize one in `quantization/`; each is a line in the stub and a row in its `table.py`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
