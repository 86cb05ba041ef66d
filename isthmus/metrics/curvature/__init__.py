"""Curvature of the loss in the input and in the weights."""
