"""Augmentation is used where the network keeps its accuracy under it, and nowhere else."""

import torch
from torch import nn

from isthmus import Augment, Data
from isthmus.training import suited_augmentation

GENERATOR = torch.Generator().manual_seed(0)


class Rule(nn.Module):
    """A network of two classes that answers by a number computed from each image, x > 0."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        value = self.number(x)
        return torch.stack([-value, value], 1)


def answered_by(net, x):
    """Data on which the network is always right."""
    return Data(x, net(x).argmax(1), 2)


def noise(n=200, side=16):
    return torch.rand(n, 1, side, side, generator=GENERATOR)


def test_a_network_that_reads_the_brightness_takes_the_largest_shift_and_mirror_images():
    brightness = torch.tensor([0.2, 0.9]).repeat(100)[:, None, None, None]
    net = Rule(lambda x: x.mean((1, 2, 3)) - 0.27)
    data = answered_by(net, noise() * brightness)
    assert suited_augmentation(net, data) == Augment(2, True, "reflect")


def test_a_network_that_tells_left_from_right_takes_no_mirror_images():
    bright_half = torch.zeros(200, 1, 16, 16)
    bright_half[::2, ..., :8] = 1
    bright_half[1::2, ..., 8:] = 1
    net = Rule(lambda x: x[..., 8:].mean((1, 2, 3)) - x[..., :8].mean((1, 2, 3)))
    assert suited_augmentation(net, answered_by(net, bright_half)) == Augment(2, False, "reflect")


def test_a_network_that_reads_single_pixels_takes_nothing():
    net = Rule(lambda x: x[:, 0, 3, 5] - 0.5)
    assert suited_augmentation(net, answered_by(net, noise())) is None


def test_a_network_that_reads_the_middle_column_takes_mirror_images_alone():
    net = Rule(lambda x: x[:, 0, 3, 7:9].sum(1) - 1)
    assert suited_augmentation(net, answered_by(net, noise())) == Augment(0, True)


def test_mirrored_borders_are_taken_where_zeros_change_the_brightness():
    gray = torch.tensor([0.25, 0.31]).repeat(100)[:, None, None, None].expand(-1, 1, 16, 16)
    net = Rule(lambda x: x.mean((1, 2, 3)) - 0.3)
    assert suited_augmentation(net, answered_by(net, gray)) == Augment(2, True, "reflect")


def test_zeros_are_taken_where_mirrored_pixels_would_repeat_what_is_at_the_border():
    lines = torch.zeros(200, 1, 16, 16)
    lines[::2, :, 1] = 1
    lines[1::2, :, 7:9] = 1
    net = Rule(lambda x: x.sum((1, 2, 3)) - 24)  # one line or two
    assert suited_augmentation(net, answered_by(net, lines)) == Augment(2, True, "zeros")


def test_the_strongest_shift_that_keeps_the_accuracy_is_taken():
    def middle(x):  # of which shifts of one pixel leave enough
        return x[:, 0, 7:9, 7:9].mean((1, 2)) - 0.5

    x = torch.zeros(200, 1, 32, 32)
    x[::2, :, 5:11, 5:11] = 1
    net = Rule(middle)
    assert suited_augmentation(net, answered_by(net, x)).pad == 2


def test_the_answer_depends_on_the_seed_alone_and_draws_from_nobody():
    net = Rule(lambda x: x[..., :4].mean((1, 2, 3)) - 0.5)
    data = answered_by(net, noise())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = suited_augmentation(net, data)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert suited_augmentation(net, data) == first


def test_a_network_that_is_never_right_suits_nothing():
    net = Rule(lambda x: x.mean((1, 2, 3)))
    assert suited_augmentation(net, Data(noise(), torch.zeros(200).long(), 2)) is None


def test_large_sets_are_read_in_part():
    images = []

    def brightness(x):
        images.append(len(x))
        return x.mean((1, 2, 3)) - 0.5

    data = Data(noise(2500, 8), torch.zeros(2500).long(), 2)
    suited_augmentation(Rule(brightness), data)
    assert sum(images) < 5000  # plain, mirrored, and one shift with two borders
