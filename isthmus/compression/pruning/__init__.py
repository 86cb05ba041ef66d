"""Pruning: which weights or channels stay, and how the rest is trained.

`mask` holds a tensor to its mask, `units` says what can be kept or dropped (single weights or
channels), and each method is one file that chooses among the units of a `PruningJob`. Every choice
passes `Units.keep`, which counts and refuses a layer with nothing left.
"""
