"""What is known of a network's values, sent through the network in place of a tensor.

`bound.py` says what any kind of bound can do, `box.py` and `spread.py` are the kinds: an interval
around every value, and how far every value can move. `rules.py` says what each layer does to a
bound. A layer without a rule is refused by name and place; a new one is a rule there.
"""
