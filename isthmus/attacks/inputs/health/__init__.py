"""Whether an attack can be trusted: indicators, each with a threshold, its source, and advice.

An indicator is a function of a `Run` and one row in a table: `by_products.py` for what a run leaves
without further passes, `probes/table.py` for what takes some. A new one is one function and one
row; `tests/attacks/inputs/health` fails where it has no naive twin there.
"""
