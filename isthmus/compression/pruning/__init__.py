"""Pruning: which weights or channels stay, and how the rest is trained.

`mask` holds a tensor to its mask, `units` says what can be kept or dropped (single weights or
channels), and each method is one file that chooses among the units of a `PruningJob`. `largest` is
what all choose by: it keeps something in every layer. What a method settles on passes `Units.keep`,
which refuses a layer with nothing left.
"""
