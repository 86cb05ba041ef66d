"""Every network of the family keeps the family's promises. A new one is one row."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from support.refusals import refused
from torch import nn

from isthmus import Bezier, Data, fit, models, split
from isthmus.metrics import Accuracy
from isthmus.models import zoo
from isthmus.models.zoo.layers import Normalize
from isthmus.training import one_cycle


@dataclass(frozen=True)
class Case:
    """A factory, how many parameters it has in the paper (or, for our own, by count), and a shape
    that it takes.
    """

    make: Callable[..., nn.Module]
    parameters: int
    shape: tuple[int, int, int] = (3, 32, 32)
    papers: str = ""


CASES = {
    "small_cnn": Case(models.small_cnn, 66_410),
    "small_cnn on digits": Case(lambda **k: models.small_cnn(channels=1, **k), 65_834, (1, 8, 8)),
    "small_cnn on odd images": Case(
        lambda **k: models.small_cnn(channels=2, **k), 66_122, (2, 7, 11)
    ),
    "mlp": Case(models.mlp, 855_050),
    "mlp on digits": Case(
        lambda **k: models.mlp(channels=1, size=8, hidden=(100,), **k), 7_510, (1, 8, 8)
    ),
    "vgg16": Case(models.vgg16, 15_245_130, papers="15.25 M, Garipov et al."),
    "vgg16 with BatchNorm": Case(lambda **k: models.vgg16(batch_norm=True, **k), 15_249_354),
    "vgg16 on larger images": Case(models.vgg16, 15_245_130, (3, 64, 48)),
    "preact_resnet 20": Case(models.preact_resnet, 272_282, papers="0.27 M, He et al."),
    "preact_resnet 26": Case(
        lambda **k: models.preact_resnet(26, **k), 369_498, papers="0.37 M, Zhao et al."
    ),
    "preact_resnet 110": Case(
        lambda **k: models.preact_resnet(110, **k), 1_730_522, papers="1.7 M, He et al."
    ),
    "preact_resnet18": Case(models.preact_resnet18, 11_172_170, papers="11.2 M"),
    "wide_resnet 16-4": Case(
        lambda **k: models.wide_resnet(16, 4, **k), 2_748_890, papers="2.7 M, Zagoruyko"
    ),
    "wide_resnet 28-10": Case(models.wide_resnet, 36_479_194, papers="36.5 M, Zagoruyko"),
}
LARGE = ("preact_resnet 110", "wide_resnet 28-10")
DIGITS = {
    "small_cnn": lambda: models.small_cnn(channels=1, width=16),
    "mlp": lambda: models.mlp(channels=1, size=8),
}
every_network = pytest.mark.parametrize("name", CASES)
every_network_that_runs_fast = pytest.mark.parametrize(
    "name", [name for name in CASES if name not in LARGE]
)


def batch(case: Case, n: int = 4) -> torch.Tensor:
    return torch.rand(n, *case.shape, generator=torch.Generator().manual_seed(0))


@every_network
def test_a_network_has_as_many_parameters_as_its_paper_says(name):
    with torch.device("meta"):  # counts and shapes alone: no memory, no time
        net = CASES[name].make()
        assert sum(p.numel() for p in net.parameters()) == CASES[name].parameters
        assert net(torch.empty(2, *CASES[name].shape)).shape == (2, 10)
        assert CASES[name].make(classes=7)(torch.empty(2, *CASES[name].shape)).shape == (2, 7)


@every_network
def test_normalization_is_the_first_layer(name):
    with torch.device("meta"):
        leaves = [part for part in CASES[name].make().modules() if not list(part.children())]
    assert isinstance(leaves[0], Normalize)
    assert sum(isinstance(part, Normalize) for part in leaves) == 1


def test_normalization_is_that_of_color_images_or_centered():
    gray, color = models.small_cnn(channels=1)[0], models.small_cnn()[0]
    assert torch.equal(
        gray(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)).flatten(),
        torch.tensor([-1.0, 0.0, 1.0]),
    )
    assert color(color.mean.expand(1, 3, 2, 2)).abs().max() == 0
    assert set(dict(color.named_buffers())) == {"mean", "std"}  # they travel with the checkpoint


@every_network_that_runs_fast
def test_the_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    net = CASES[name].make().train()
    net(batch(CASES[name])).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_network_that_runs_fast
def test_a_network_connects_and_exports_under_its_own_keys(name):
    torch.manual_seed(0)
    start, end = CASES[name].make().eval(), CASES[name].make().eval()
    curve, x = Bezier(start, end), batch(CASES[name], 2)
    point = curve.export(0.5)
    assert list(point.state_dict()) == list(start.state_dict())
    assert torch.equal(curve.export(1.0)(x), end(x))
    halfway = curve.at(0.5)(x)
    assert torch.allclose(halfway, point(x), atol=1e-5)
    halfway.sum().backward()
    assert curve.bends.grad.isfinite().all() and curve.bends.grad.any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.preact_resnet(18), "depth 18"),
        (lambda: models.preact_resnet(2), "6n + 2"),
        (lambda: models.wide_resnet(26), "depth 26"),
        (lambda: models.wide_resnet(4), "6n + 4"),
        (lambda: models.mlp(hidden=(64, 0)), "above zero"),
        (lambda: models.mlp(size=0), "size 0"),
    ],
)
def test_a_network_that_does_not_exist_is_refused(make, words):
    refused(make, words)


def test_every_factory_that_is_exported_is_in_the_table():
    named = {name.split()[0] for name in CASES}
    assert named == set(zoo.__all__)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    for net in (models.vgg16(), models.wide_resnet(10, 1, dropout=0.5)):
        x = torch.rand(2, 3, 32, 32)
        assert torch.equal(net.eval()(x), net(x))
        assert not torch.equal(net.train()(x), net(x))
    quiet = models.vgg16(dropout=0.0).train()
    assert torch.equal(quiet(x), quiet(x))


@pytest.mark.parametrize("name", DIGITS)
def test_a_small_network_learns_the_digits_in_a_second(name):
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    train, test = split(
        Data(images, torch.tensor(digits.target), 10), [1297, 500], torch.Generator().manual_seed(0)
    )
    torch.manual_seed(0)
    net = DIGITS[name]()
    fit(
        net,
        train,
        steps=100,
        lr=0.1,
        batch_size=64,
        weight_decay=5e-4,
        schedule=one_cycle,
        device="cpu",
    )
    assert Accuracy(test)(net) >= 0.96
