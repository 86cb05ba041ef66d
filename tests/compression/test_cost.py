"""What a network costs, counted by hand: places that share a batch axis, transposed convolutions,
attention, and channels that are empty.
"""

import pytest
import torch
from torch import nn

from isthmus.compression import multiply_adds, sparsity
from isthmus.models.channels.filters import filters

IMAGE = torch.rand(2, 3, 8, 8)


class Tokens(nn.Module):
    """A linear layer on all pixels as a batch, on windows of them, or on the image as rows."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.layer = nn.Linear(3, 5)

    def forward(self, x):
        pixels = x.movedim(1, -1).reshape(*self.shape, 3)
        return self.layer(pixels).reshape(len(x), -1, 5).mean(1)


@pytest.mark.parametrize("shape", [(-1,), (-1, 64), (-1, 16), (-1, 4, 4), (-1, 8, 8)])
def test_a_linear_layer_counts_at_every_token_however_they_are_laid_out(shape):
    assert multiply_adds(Tokens(shape), IMAGE) == (64 * 15, 64 * 15)


class Windows(nn.Module):
    """A convolution on the quarters of an image, which take the place of a batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        quarters = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 1, 3, 5)
        return self.layer(quarters.reshape(-1, 3, 4, 4)).reshape(len(x), -1, 64).mean(1)


def test_a_convolution_counts_at_every_place_of_every_window():
    assert multiply_adds(Windows(), IMAGE)[0] == 64 * 4 * 3 * 9


def products(layer, x):
    """How often a weight meets an input, by hand: the output of ones by ones, without its edges."""
    with torch.no_grad():
        layer.weight.fill_(1.0)
        return int(layer(torch.ones_like(x)).sum())


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_convolutions_count_their_products(kind, stride, groups):
    layer = kind(3, 6, 3, stride=stride, groups=groups, bias=False)
    assert multiply_adds(layer, IMAGE)[0] == products(layer, IMAGE[:1])


class Attending(nn.Module):
    """Attention of pixels to themselves, or of one token to them."""

    def __init__(self, one, **options):
        super().__init__()
        self.one = one
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **options)
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        wide = torch.cat([x, x], 1).flatten(2).mT
        query = wide[:, :1] if self.one else wide
        side = wide[..., : self.attention.kdim]
        return self.layer(self.attention(query, side, value=side)[0].mean(1))


@pytest.mark.parametrize("one", [False, True])
def test_the_projections_of_attention_count(one):
    queries = 1 if one else 64
    expected = (2 * queries + 2 * 64) * 36 + 12
    net = Attending(one)
    assert multiply_adds(net, IMAGE) == (expected, expected)
    nn.init.zeros_(net.attention.in_proj_weight[:6])
    assert multiply_adds(net, IMAGE) == (expected, expected - queries * 36)
    apart = Attending(one, kdim=3, vdim=3)
    assert multiply_adds(apart, IMAGE)[0] == 2 * queries * 36 + 2 * 64 * 18 + 12


def test_a_network_with_ordinary_weights_is_not_copied_to_be_counted(monkeypatch):
    monkeypatch.setattr("isthmus.compression.network.copied", pytest.fail)
    layer = nn.Conv2d(3, 4, 3)
    assert multiply_adds(layer, IMAGE)[0] == 36 * 4 * 27 and sparsity(layer).weights == 0
    assert not layer._forward_hooks


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_channel_without_weights_is_one_whose_output_is_nothing(kind, groups):
    torch.manual_seed(0)
    layer = kind(4, 6, 3, groups=groups, bias=False)
    rows = filters(layer, layer.weight)
    assert rows.shape == (6, 4 // groups * 9)
    with torch.no_grad():
        for channel in (1, 4):
            if kind is nn.Conv2d:
                layer.weight[channel] = 0
            else:
                each = 6 // groups
                group = channel // each
                inputs = slice(group * 4 // groups, (group + 1) * 4 // groups)
                layer.weight[inputs, channel % each] = 0
        silent = layer(torch.rand(1, 4, 8, 8)).abs().sum((0, 2, 3)) == 0
    assert silent.tolist() == [False, True, False, False, True, False]
    assert (~filters(layer, layer.weight).any(1)).tolist() == silent.tolist()
    assert sparsity(layer).channels == pytest.approx(1 / 3)
