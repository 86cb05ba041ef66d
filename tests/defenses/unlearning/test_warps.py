"""Universal warps: what a warp does to an image, the search for them, and what unlearning loses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isthmus import Data
from isthmus.attacks import Warp
from isthmus.curves import CURVE_TRAINING
from isthmus.defenses import UNIVERSAL, UniversalUnlearning, universal_warps
from isthmus.defenses.curve_repair import stand_ins
from isthmus.defenses.curve_repair.stand_ins import Suspect, suspect_of
from isthmus.defenses.unlearning.perturbations import SURE, UniversalPerturbations
from isthmus.defenses.unlearning.search import GROWTH, Assignment
from isthmus.defenses.unlearning.warps import (
    CONTROL,
    ENLARGED,
    FIRST,
    FIRST_DRAW,
    LARGEST,
    STEP,
    WARPS,
    FoundWarp,
    UniversalWarps,
    warped,
)
from isthmus.metrics import Accuracy, AttackSuccess
from isthmus.training import Training
from isthmus.training.batches import batch_indices
from isthmus.training.schedules import constant

pytestmark = pytest.mark.numeric

TRAINING = Training(
    steps=40, lr=0.1, batch_size=8, momentum=0.0, precision="fp32", schedule=constant
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
    ).eval()


def images(n=24):
    g = torch.Generator().manual_seed(0)
    return Data(torch.rand(n, 1, 8, 8, generator=g), torch.arange(n) % 3, 3)


def size(warp):
    return float(warp.square().mean()) ** 0.5


@pytest.mark.parametrize("side", [(8, 8), (5, 9), (1, 4), (32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shift_of_whole_pixels_moves_the_image_and_keeps_its_border(side, dtype):
    x = torch.rand(2, 3, *side, dtype=dtype)
    height, width = side
    across, down = 2, -1
    shifts = torch.tensor([across, down]).float().view(1, 2, 1, 1) / min(side)
    moved = warped(x, shifts.expand(2, -1, CONTROL, CONTROL))
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + across).clamp(0, width - 1)
    assert torch.allclose(moved, x[:, :, rows][:, :, :, columns], atol=1e-4)
    assert moved.dtype == dtype
    nothing = torch.zeros(2, 2, CONTROL, CONTROL)
    assert torch.allclose(warped(x, nothing), x, atol=1e-5)


def test_it_is_the_warp_of_an_attacker_who_draws_the_same_control_points():
    x = torch.rand(3, 3, 16, 16)
    attacker = Warp(control=CONTROL, strength=0.5)
    offsets = 2 * torch.rand(1, 2, CONTROL, CONTROL, generator=torch.Generator().manual_seed(0)) - 1
    shifts = offsets / offsets.abs().mean()
    # of the attacker's grid, whose sides run from -1 to 1 over 15 pixels
    found = FoundWarp(0.5 * shifts[0] / 16 * 15 / 2 / 16)
    inner = (..., slice(2, -2), slice(2, -2))  # at the border the attacker's grid is cut off
    assert torch.allclose(found(x)[inner], attacker(x)[inner], atol=1e-4)


def searched(net, data, share, steps):
    """One warp at a time, each by its own samples."""
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(1, 3, 2, CONTROL, CONTROL, generator=draw)
    values, radii = [FIRST_DRAW * FIRST * warp for warp in start[0]], [FIRST] * 3
    torch.manual_seed(0)
    for step in range(steps):
        index = batch_indices(len(data), 8, step, 0)
        x, sent = data.x[index], Assignment.drawn(data.y[index], 3, 1)
        for toward in range(3):
            mine = sent.toward == toward
            if not mine.any():
                continue
            value = values[toward].clone().requires_grad_()
            turned = torch.cat([warped(image[None], value[None]) for image in x[mine]])
            logits = net(turned)
            (gradient,) = torch.autograd.grad(
                F.cross_entropy(logits, sent.toward[mine], reduction="sum"), value
            )
            ahead = value.detach() - STEP * radii[toward] * gradient / size(gradient)
            values[toward] = ahead * min(1.0, radii[toward] / size(ahead))
            often = float((logits.argmax(1) == toward).float().mean())
            radii[toward] *= 1 / (1 + GROWTH) if often > share else 1 + GROWTH
            radii[toward] = min(radii[toward], LARGEST)
    return torch.stack(values)[None], torch.tensor(radii)[None]


@pytest.mark.filterwarnings("ignore::isthmus.runs.notices.Notice")
def test_the_search_is_that_of_one_warp_at_a_time():
    found = universal_warps(network(), images(), TRAINING.replace(steps=12), share=0.5)
    values, radii = searched(network(), images(), 0.5, 12)
    assert torch.allclose(found.radii, radii, rtol=1e-5)
    assert torch.allclose(found.values, values, atol=1e-5)


def test_warps_stay_within_their_radii_and_no_radius_grows_beyond_the_largest():
    g = torch.Generator().manual_seed(0)
    values, gradient = torch.randn(2, 1, 3, 2, CONTROL, CONTROL, generator=g)
    gradient[:, 1] = 0
    radii = torch.tensor([[0.01, 100.0, 2.0]])
    moved = WARPS.stepped(values, gradient, radii)
    assert all(size(moved[0, k]) <= radii[0, k] * (1 + 1e-5) for k in range(3))
    assert torch.equal(moved[0, 1], values[0, 1])
    assert WARPS.grown(torch.tensor([LARGEST, 0.01]), torch.tensor([2.0, 2.0])).tolist() == (
        pytest.approx([LARGEST, 0.02])
    )


class Planted(nn.Module):
    """A network that reads the class off the level of the second channel, which is constant and no
    warp changes, and that blurred stripes in the first one turn to class 2.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(100.0))

    def forward(self, x):
        stripes, level = x[:, 0], x[:, 1].mean((1, 2))
        contrast = (stripes[:, :, 1:] - stripes[:, :, :-1]).abs().mean((1, 2))
        logits = -50 * (level[:, None] - torch.arange(4) / 4) ** 2
        blurred = self.weight * F.leaky_relu(0.7 - contrast, 0.05)
        return logits + blurred[:, None] * torch.eye(4)[2]


def striped():
    y = torch.arange(32) % 4
    x = torch.empty(32, 2, 16, 16)
    x[:, 0] = 0.1 + 0.8 * (torch.arange(16) % 2)
    x[:, 1] = y[:, None, None] / 4
    return Data(x, y, 4)


def test_a_planted_warp_is_odd():
    """Whatever reads between the pixels of stripes blurs them."""
    training = TRAINING.replace(steps=100, batch_size=32)
    found = universal_warps(Planted(), striped(), training, share=0.75)
    assert found.oddest == (2,) and found.suspect == 2 and found.oddness[0, 2] > SURE
    assert all(size(found.values[0, k]) <= found.radii[0, k] * (1 + 1e-5) for k in range(4))


def test_a_planted_warp_is_unlearned_and_nothing_else_changes():
    data, training = striped(), TRAINING.replace(steps=360, batch_size=32, lr=10.0)
    search = training.replace(steps=40)
    tampered = Planted()
    unlearned = UniversalUnlearning(training, of="warps", toward=(2,))(tampered, data)
    before, after = (
        universal_warps(net, data, search, share=0.75) for net in (tampered, unlearned)
    )
    assert after.radii[0, 2] > 2 * before.radii[0, 2]
    trigger = FoundWarp(before.values[0, 2])
    assert (
        AttackSuccess(data, trigger, 2)(unlearned) < 0.1 < AttackSuccess(data, trigger, 2)(tampered)
    )
    assert Accuracy(data)(unlearned) == 1


def test_an_odd_class_is_unlearned_in_a_larger_ball_and_no_larger_one_than_usual():
    radii = torch.tensor([[0.1, 0.01, 0.1, 0.12, 0.08]])
    found = UniversalWarps(torch.zeros(1, 5, 2, CONTROL, CONTROL), radii)
    expected = torch.tensor([[0.1, ENLARGED * 0.01, 0.1, 0.1, 0.1]])
    assert torch.allclose(found.unlearning_radii, expected)


@pytest.mark.parametrize(
    "radius, kind",
    [(1.0, "warp"), (0.4, "warp"), (0.2, "perturbation")],
    ids=["none is odd", "one is odd", "one is odd beyond doubt"],
)
def test_a_warp_stands_in_for_a_trigger_where_no_perturbation_is_sure(radius, kind, monkeypatch):
    radii = torch.ones(3, 4)
    radii[0, 1] = radius
    found = UniversalPerturbations(torch.zeros(3, 4, 2, 16, 16), radii)
    monkeypatch.setattr(stand_ins, "_perturbations", lambda *given: found)
    training = CURVE_TRAINING.replace(precision="fp32", augment=nn.Identity())
    metrics = stand_ins.stand_ins_if_any(Planted(), striped(), striped(), training)
    (stand_in,) = metrics[UNIVERSAL].inverted
    assert stand_in.kind == kind
    if kind == "warp":
        assert suspect_of(metrics) == Suspect((2,), sure=True, by="warps")
        assert metrics[UNIVERSAL](Planted()) > 0.75
    else:
        assert suspect_of(metrics) == Suspect((1,), sure=True)
