"""PGD and MSD: closed forms on linear networks, and a naive twin of the step in several balls."""

import pytest
import torch
from support.attacked import BALLS, loss_of, right, robust_digits, two_classes

from isthmus.attacks import APGD, FAB, MSD, PGD
from isthmus.data import L1, L2, Linf
from isthmus.metrics import RobustAccuracy

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("ball", [Linf(0.2), L2(0.9), L1(1.5), L1(1.5, share=0.2)], ids=str)
def test_pgd_reaches_the_optimum_of_a_linear_network(ball):
    """max <w, d> in ball and box: sign w clipped for l-inf; in general by projecting ever longer
    steps along w.
    """
    net, w = two_classes()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.zeros(6, dtype=torch.long)
    moved = PGD(ball, steps=120, step=ball.eps / 10, returns="worst")(net, x, y)
    if isinstance(ball, Linf):
        assert torch.allclose(moved, (x + ball.eps * w.sign()).clamp(0, 1))
    best = (
        ball.project(1e4 * w.expand_as(x), -x, 1 - x)
        if isinstance(ball, L2)
        else greedy(ball, x, w)
    )
    reached, optimum = ((moved - x) * w).flatten(1).sum(1), (best * w).flatten(1).sum(1)
    # The steepest step of l1 and the Euclidean projection can go round in a circle short of the
    # optimum.
    assert (reached >= (0.8 if isinstance(ball, L1) else 0.999) * optimum).all() and (
        reached <= optimum + 1e-9
    ).all()


def greedy(ball, x, w):
    """The largest weights first, as far as the box lets them, until the l1 budget is spent; l-inf:
    all to the end.
    """
    room = torch.where(w > 0, 1 - x, x)
    if isinstance(ball, Linf):
        return w.sign() * room.clamp(max=ball.eps)
    out = torch.zeros_like(x).flatten(1)
    for i, rooms in enumerate(room.flatten(1)):
        left = ball.eps
        for j in w.flatten().abs().argsort(descending=True).tolist():
            out[i, j] = w.flatten()[j].sign() * min(left, float(rooms[j]))
            left -= abs(float(out[i, j]))
    return out.view_as(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda ball: PGD(ball, steps=60),
        lambda ball: PGD(ball, steps=20, random_start=False),
        lambda ball: APGD(ball, "ce"),
        lambda ball: FAB(ball, steps=20),
    ],
)
@pytest.mark.parametrize("kind", [Linf, L2])
def test_a_linear_network_is_fooled_exactly_where_it_can_be(make, kind):
    net, w = two_classes(2)
    net[1].bias.data[1] = -0.5 * w.sum()  # the classes share the box
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = net(x).argmax(1)
    sign = torch.where(y == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    eps = {Linf: 0.08, L2: 0.4}[kind]
    best = x + kind(eps).project(1e4 * sign * w.expand_as(x), -x, 1 - x)
    gap = net(best)[:, 1]
    vulnerable = (gap > 0) != (y == 1)
    clear = gap.abs() > 0.01
    assert 5 < vulnerable[clear].sum() < clear.sum() - 5
    fooled = ~right(net, make(kind(eps))(net, x, y), y)
    assert torch.equal(fooled[clear], vulnerable[clear])


def test_a_step_in_several_balls_goes_where_the_loss_is_highest(net, samples):
    """The naive way: one step of PGD in each ball, and the best of them for each sample."""
    (x, y), balls = samples, list(BALLS)
    options = {"random_start": False, "returns": "last"}
    moved = MSD(balls, steps=1, **options)(net, x, y)
    alone = [PGD(ball, steps=1, **options)(net, x, y) for ball in balls]
    losses = torch.stack([loss_of(net, each, y) for each in alone])
    assert len(set(losses.argmax(0).tolist())) > 1, "no ball is the worst for all"
    for i, best in enumerate(losses.argmax(0)):
        assert torch.equal(moved[i], alone[best][i])


@pytest.mark.slow
def test_pgd_agrees_with_another_implementation():
    """One start at the input, the same step: the same accuracy, to the sample."""
    foolbox = pytest.importorskip("foolbox")
    net, some = robust_digits(Linf(0.15))
    x = some.floats()
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.03, steps=20, random_start=False)
    model = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
    _, _, fooled = theirs(model, x, some.y, epsilons=0.15)
    ours = RobustAccuracy(some, PGD(Linf(0.15), steps=20, step=0.03, random_start=False))(net)
    print(f"\nPGD-20: ours {ours:.3f}, foolbox {1 - fooled.double().mean().item():.3f}")
    assert ours <= 1 - fooled.double().mean().item() + 1e-9
    assert ours.hits >= int((~fooled).sum()) - 3, (
        "ours may be a little stronger: it keeps the worst point, not the last"
    )
