"""Data: what is taken, what is refused and in which words, and what drawing and splitting keep."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.refusals import refused
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from isthmus.data import Augment, Data, as_data, split
from isthmus.runs.identity import identity_of

X, Y = (
    torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 1, 2, 0, 1, 2]),
)
nan = float("nan")


@pytest.mark.parametrize(
    ("x", "y", "classes", "words"),
    [
        (X[0], Y, 3, ["(3, 4, 4)", "(n, channels, height, width)", "stack"]),
        (X.long(), Y, 3, ["torch.int64", "uint8 or floating point", "channels first"]),
        (X[:0], Y[:0], 3, ["no images", "one sample or more", "check the path"]),
        (X * 255, Y, 3, ["inputs from", "[0, 1]", "divide 0..255 images by 255"]),
        (X - 0.5, Y, 3, ["inputs from -0.", "[0, 1]", "normalization into the network"]),
        (X.clone().fill_(nan), Y, 3, ["NaN, first in sample 0", "[0, 1]", "leave such"]),
        (X.clone().index_fill_(0, torch.tensor([1]), nan), Y, 3, ["NaN, first in sample 1"]),
        (X.clone().fill_(float("inf")), Y, 3, ["from inf to inf", "[0, 1]", "first layer"]),
        (X, Y[:5], 3, ["(5,)", "(6,)", "one label for each sample"]),
        (X, Y[:, None], 3, ["(6, 1)", "(6,)", "one label for each sample"]),
        (X, Y, 2, ["0 to 2", "0 to 1 for 2 classes", "relabel from 0"]),
        (X, Y, ["cat", "dog", "cat"], ["3 classes", "'cat'", "rename"]),
        (X, Y, 10**12, ["1000000000000 classes", "huge"]),
        (X, Y - 1, 3, ["-1 to 1", "0 to 2 for 3 classes", "relabel from 0"]),
        (X, Y + 0.5, 3, ["not whole numbers", "class indices", "int64"]),
        (X, Y * nan, 3, ["not whole numbers", "class indices", "int64"]),
        (X, Y / torch.zeros(6), 3, ["not whole numbers", "class indices", "int64"]),
        (X.numpy(), Y, 3, ["ndarray", "a tensor", "as_data"]),
    ],
)
def test_bad_data_is_refused_in_one_line(x, y, classes, words):
    refused(lambda: Data(x, y, classes), *words)


def test_a_shift_that_leaves_nothing_is_refused():
    refused(lambda: Augment(pad=-1), "pad = -1")
    refused(lambda: Augment(border="wrap"), "border = 'wrap'", "zeros or reflect")
    refused(lambda: Augment(pad=4)(X), "4x4")
    assert Augment(pad=3)(X).shape == X.shape


@pytest.mark.parametrize(
    "kind", [torch.int64, torch.int32, torch.uint8, torch.uint64, torch.float32, torch.bool]
)
def test_labels_of_any_whole_type_become_int64(kind):
    data = Data(X, (Y % 2).to(kind), 2)
    assert data.y.dtype == torch.int64 and data.y.tolist() == [0, 1, 0, 0, 1, 0]


class Stream(IterableDataset):
    """Pairs without a length."""

    def __iter__(self):
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


class Pictures:
    """A map-style set of PIL images that knows its classes and does not end by itself."""

    classes = ("cat", "dog", "cow", "hen")

    def __init__(self, mode):
        self.mode = mode

    def __len__(self):
        return 6

    def __getitem__(self, i):
        image = Image.fromarray((X[i].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        return image.convert(self.mode), int(Y[i])


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        (X.numpy(), Y.tolist()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        [(x.numpy(), y) for x, y in zip(X, Y, strict=True)],
        Stream(),
        ConcatDataset([TensorDataset(X[:2], Y[:2]), TensorDataset(X[2:], Y[2:])]),
        Data(X, Y, 3),
    ],
)
def test_whatever_yields_images_and_labels_is_data(source):
    data = as_data(source)
    assert torch.equal(data.x, X) and torch.equal(data.y, Y) and data.num_classes == 3


def test_pictures_get_their_channels_first():
    color, gray = as_data(Pictures("RGB")), as_data(Pictures("L"))
    assert color.x.dtype == torch.uint8 and torch.equal(color.x, (X * 255).round().byte())
    assert gray.x.shape == (6, 1, 4, 4)


def test_class_names_come_from_the_set_under_loaders_and_subsets():
    few = Subset(Subset(Pictures("RGB"), [0, 1, 3]), [0, 1])
    assert as_data(DataLoader(few, collate_fn=lambda pairs: pairs[0])).classes == Pictures.classes
    assert as_data(few, classes=3).num_classes == 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], ["an empty data set", "pairs (x, y)", "check the path or the split"]),
        ((X[:0], Y[:0]), ["no images", "one sample or more", "check the path"]),
        ((X, Y * nan), ["not whole numbers", "class indices", "int64"]),
        ((X, -Y - 1), ["-3 to -1", "relabel from 0"]),
        (
            (X, ["cat"] * 6),
            ["a tuple that does not yield images with labels", "pairs (x, y)", "pass Data"],
        ),
        ((X, Y, Y), ["a tuple that does not yield", "pairs (x, y)", "pass Data"]),
        ([X, X], ["a list that does not yield", "pairs (x, y)", "pass Data"]),
        ([{"img": 0, "label": 1}], ["a list that does not yield", "pairs (x, y)", "pass Data"]),
        ([(X[0], 1), (X[0, :, :2], 1)], ["does not yield", "one image shape", "pass Data"]),
        (7, ["a int that does not yield", "pairs (x, y)", "pass Data"]),
    ],
)
def test_bad_sources_are_refused_in_one_line(source, words):
    refused(lambda: as_data(source), *words)


def test_bytes_and_floats_are_two_views_of_one_image():
    stored = Data((X * 255).round().byte(), Y, 3)
    assert stored.floats().max() <= 1 and stored.floats().dtype == torch.float32
    assert torch.equal(stored.with_floats(stored.floats()).x, stored.x)
    refused(lambda: stored.with_floats(stored.floats() + 0.5), "[0, 1]")
    refused(lambda: stored.changed(lambda x: (255 * x).to(torch.uint8)), "uint8", "floats")


@pytest.mark.parametrize(
    "kind", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_hash_is_of_content(kind):
    x = (X * 255).to(kind) if kind == torch.uint8 else X.to(kind)
    data = Data(x, Y, 3)
    assert data.sha256 == Data(x.clone(memory_format=torch.channels_last), Y.clone(), 3).sha256
    for other in (
        Data(x, Y.flip(0), 3),
        Data(x, Y, 4),
        Data(x.flip(0), Y, 3),
        Data(x.reshape(6, 3, 2, 8), Y, 3),
    ):
        assert other.sha256 != data.sha256


def test_split_is_disjoint_and_repeatable():
    data = Data(torch.zeros(20, 1, 2, 2), torch.arange(20), 20)
    parts = [split(data, [5, 10], torch.Generator().manual_seed(3)) for _ in range(2)]
    first, again = ([part.y.tolist() for part in each] for each in parts)
    assert first == again and len({*first[0], *first[1]}) == 15


@pytest.mark.parametrize("sizes", [[7], [4, 3], [0, 2], [-1]])
def test_split_refuses_more_samples_than_there_are(sizes):
    refused(
        lambda: split(Data(X, Y, 3), sizes, torch.Generator()),
        f"{sizes} samples",
        "6 together",
        "add up to 6 at most",
    )


NUMPY_MODES = {"zeros": "constant", "reflect": "reflect"}


@pytest.mark.parametrize("border", NUMPY_MODES)
def test_augment_moves_each_image_as_a_naive_twin_does(border):
    x, pad = torch.arange(2 * 3 * 5 * 6).reshape(2, 3, 5, 6), 2
    torch.manual_seed(0)
    moved = Augment(pad, border=border)(x)
    torch.manual_seed(0)
    top, left = torch.randint(0, 2 * pad + 1, (2, 2, 1))
    flipped = torch.rand(2, 1) < 0.5
    for i in range(2):
        around = ((0, 0), (pad, pad), (pad, pad))
        canvas = torch.from_numpy(np.pad(x[i].numpy(), around, NUMPY_MODES[border]))
        cut = canvas[:, int(top[i]) : int(top[i]) + 5, int(left[i]) : int(left[i]) + 6]
        assert torch.equal(moved[i], cut.flip(2) if flipped[i] else cut)


def test_runs_with_a_border_of_zeros_are_recognized_as_before_there_was_another():
    identities = [identity_of(Augment(2, border=border)) for border in NUMPY_MODES]
    assert identities[0] == "Augment(pad=2, flip=True)"
    assert identities[1] != identities[0]


def test_data_are_one_line_in_a_terminal():
    data = Data(
        torch.zeros(3, 3, 4, 5, dtype=torch.uint8), torch.arange(3), [f"c{i}" for i in range(9)]
    )
    words = "Data(n=3, shape=(3, 4, 5), dtype=uint8, classes=9: 'c0', 'c1', 'c2', ...)"
    assert repr(data) == words
