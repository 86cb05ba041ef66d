"""Defenses that a repair is compared with, one file a source; all of them stand in `table`.

Each is `(tampered, bonafide) -> repaired network`: it starts from the tampered network, gets the
same samples and the same budget, sees no trigger and no test data, and leaves the tampered network
as it is.
"""
