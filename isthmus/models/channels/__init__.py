"""Channels that can be permuted without changing what the network computes.

`trace` follows a run, by the algebra of `labels`, and ties axes together in a graph of `atoms`;
`groups` names what belongs together, `matching` brings one network's channels into the order of
another's.
"""
