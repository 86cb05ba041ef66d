"""Figures: one file for each thing that is drawn.

A function takes a report, a part of one or a measured `Path`, and returns a matplotlib `Figure` to
show or save as the caller likes; pyplot, its windows and its settings stay as they are. `to_svg` is
what the HTML page embeds. A new figure is a function in a file here and a line in the stub beside
this; colors, settings and bands come from `drawing.py`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
