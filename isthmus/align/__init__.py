"""Permutation symmetry of any network: groups of channels found by following a run, permuted copies, alignment.

Networks that differ by the order of their channels compute the same function, yet lie far apart in weight space.
`align` moves a network close to another one, `permuted_copy` far from itself; neither changes what it computes.
"""

from isthmus.align.groups import (
    Group,
    Groups,
    Permutations,
    Place,
    check_same_function,
    identity,
    inverse,
    permutation_groups,
    permute,
    permuted_weights,
    random_permutations,
)
from isthmus.align.matching import Alignment, align, match_activations, match_weights, permuted_copy

__all__ = [
    "Alignment",
    "Group",
    "Groups",
    "Permutations",
    "Place",
    "align",
    "check_same_function",
    "identity",
    "inverse",
    "match_activations",
    "match_weights",
    "permutation_groups",
    "permute",
    "permuted_copy",
    "permuted_weights",
    "random_permutations",
]
