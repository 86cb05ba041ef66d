"""Attackers who do more than poison a set, one file each."""
