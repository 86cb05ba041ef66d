"""Indicators that ask the network again: other attacks on samples that still stand, other radii,
tiny changes of the input. Together they cost about as much as PGD-10 with five restarts.
"""
