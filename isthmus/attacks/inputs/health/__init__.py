"""Whether an attack can be trusted."""
