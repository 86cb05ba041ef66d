"""Quantization: weights on a few levels, by layer.

`grids` says which levels there are and rounds to them; `rounded` holds a weight to its grid as a
parametrization; `ways` are the methods, which differ in what the network sees while it is trained.
"""
