"""Inputs that fool a network within a ball: `(model, x, y) -> x_adv`."""
