"""What is known of a network's values, sent through the network in place of a tensor.

`bound.py` says what a layer does to any kind of bound, `box.py` and `spread.py` are the kinds: an
interval around every value, and how far every value can move. A layer without a rule is refused by
name and place. A new layer is a rule in `bound.py`; a new kind of bound is a file."""
