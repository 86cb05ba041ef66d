"""FAB: the way to a plane against the naive way."""

import pytest
import torch

from isthmus.attacks.inputs.fab import onto_plane
from isthmus.data import L2, Linf

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("ball", [Linf(1.0), L2(1.0)])
def test_the_way_to_a_plane_is_the_shortest_in_the_box(ball):
    """By walking along w within the box until the plane is crossed, the length by bisection."""
    g = torch.Generator().manual_seed(0)
    x, w = (torch.rand(12, 1, 3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    w, value = w - 0.5, 3 * torch.rand(12, generator=g, dtype=torch.float64) - 1.5
    w[0, 0, 0, 0] = 0.0
    delta = onto_plane(ball, x, w, value)
    assert (x + delta).min() >= -1e-12 and (x + delta).max() <= 1 + 1e-12
    for i in range(12):
        ahead = -torch.sign(value[i]) * w[i]
        speed = ahead.sign() if isinstance(ball, Linf) else ahead

        def walked(length, i=i, speed=speed):
            return (x[i] + length * speed).clamp(0, 1) - x[i]

        def crossed(length, i=i, walked=walked):
            reached = (walked(length) * w[i]).sum() + value[i]
            return reached * torch.sign(value[i]) <= 0

        low, high = 0.0, 1e6  # from there on every value is at its border
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if crossed(middle) else (middle, high)
        assert torch.allclose(delta[i], walked(high), rtol=0, atol=1e-9), i
