"""Errors injected into weights, and bit faults."""
