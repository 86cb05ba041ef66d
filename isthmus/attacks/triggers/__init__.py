"""Triggers `x -> x`, and training sets poisoned with them."""
