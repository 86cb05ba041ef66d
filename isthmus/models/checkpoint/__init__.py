"""Checkpoints in and out: what a file holds is read as tensors and never run.

`reading` says what a file holds, `fitting` which of it belongs where in a network, `writing` how it
is saved. Networks are written as safetensors, with their origin in the file's metadata; they are
read from safetensors, or from torch's own files as far as these hold tensors alone
(`weights_only=True`). Everything that can be wrong with a file is found before one weight of a
network changes, and no code in it is ever called.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
