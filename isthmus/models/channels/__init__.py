"""Channels that can be permuted without changing what the network computes.

`trace` follows a run and finds which axes belong together, `groups` names them, `matching` brings
one network's channels into the order of another's."""
