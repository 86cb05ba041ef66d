"""The laws that all scores share, over their table; and what each of them is for."""

import warnings

import numpy as np
import pytest
import torch
from support.refusals import refused
from torch import nn

from isthmus import Data, detection
from isthmus.detection import ManifoldDetector, Score, scores, screen_trusted
from isthmus.detection.features import layer_pass
from isthmus.detection.neighbors import NeighborScore
from isthmus.models import small_cnn

PLANE, AMBIENT = 3, 36
LAYERS = ("0", "2")


def on_plane(n, seed=0):
    """Images of 6x6 that lie on one plane of 3 dimensions through the middle of the box."""
    generator = torch.Generator().manual_seed(seed)
    places = 0.3 * (torch.rand(n, PLANE, generator=generator, dtype=torch.float64) - 0.5)
    x = 0.5 + places @ plane()[0].mT
    return Data(x.view(n, 1, 6, 6), torch.arange(n) % 3, 3)


def plane():
    """The directions of the plane, and one across it."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(AMBIENT, AMBIENT, generator=generator).double())
    return basis[:, :PLANE], basis[:, PLANE]


def lifted(x, height):
    return (x.flatten(1) + height * plane()[1]).view_as(x)


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Flatten(), nn.Linear(AMBIENT, 12), nn.ReLU()),
        *(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)),
    )
    return net.double().eval()


def fitted(name, layer=None, reference=None, neighbors=10, index="exact"):
    if name == "inconsistency":
        layer = layer or ("1", "3", "5")
    reference = on_plane(150) if reference is None else reference
    detector = ManifoldDetector(name, neighbors, layer, index)
    return detector.fit(reference, network() if layer else None)


OVER_NEIGHBORS = [name for name, kind in scores().items() if issubclass(kind, NeighborScore)]
KINDS = [(name, "exact") for name in scores()] + [(name, "approximate") for name in OVER_NEIGHBORS]


@pytest.fixture(scope="module", params=KINDS, ids=" ".join)
def detector(request):
    name, index = request.param
    if index == "approximate":
        pytest.importorskip("faiss")
    return fitted(name, index=index)


def test_an_approximate_index_finds_what_it_says(tmp_path):
    """On clusters that a graph of few links splits; loaded again it answers alike."""
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(20, 64, generator=generator)
    x = centers.repeat(60, 1) + 0.01 * torch.rand(1200, 64, generator=generator)
    data = Data((x / 2).view(-1, 1, 8, 8), torch.arange(1200) % 2, 2)
    detector = ManifoldDetector("knn", 10, index="approximate").fit(data)
    (part,) = detector.fitted.parts
    rows = part.reference[:500]
    apart = (rows[:, None].double() - part.reference).square().sum(2)
    near = apart.topk(10, largest=False).indices.tolist()
    hits = [
        len(set(a) & set(b)) for a, b in zip(near, part.nearest(rows, 10).tolist(), strict=True)
    ]
    assert detector.recall == pytest.approx(sum(hits) / 5000, abs=0.01) and detector.recall > 0.9
    assert detector.record()["index"] == "approximate"
    loaded = ManifoldDetector.load(detector.save(tmp_path / "detector.safetensors"))
    assert torch.equal(loaded.score(data.x), detector.score(data.x))
    assert loaded.index == "approximate" and fitted("knn").recall is None


def test_every_score_is_in_the_table_and_every_file_of_one_too():
    def below(kind):
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    assert set(scores().values()) == set(below(Score)) - {NeighborScore}
    assert detection.scores is scores


def test_farther_from_the_plane_is_a_larger_score(detector):
    x = on_plane(40, seed=1).x
    series = [detector.score(lifted(x, height)) for height in (0.0, 0.1, 0.5)]
    medians = [float(part.median()) for part in series]
    assert medians == sorted(medians) and medians[-1] > 1.5 * medians[0] + 1e-9
    if detector.score_name != "inconsistency":  # a network may map both to the same features
        assert (series[2] >= series[0] - 1e-9).all()


def test_scores_depend_neither_on_batch_nor_on_order(detector):
    x = on_plane(60, seed=2).x
    whole = detector.score(x)
    single = torch.cat([detector.score(x[i : i + 1]) for i in range(len(x))])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(single, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(detector.score(x[order]), whole[order], rtol=1e-9, atol=1e-9)
    assert whole.shape == (60,) and whole.dtype == torch.float64 and (whole >= 0).all()
    assert detector.score(x[:0]).shape == (0,)


def test_save_and_load_give_identical_scores(detector, tmp_path):
    detector.calibrate(on_plane(100, seed=3), 0.1)
    x = on_plane(30, seed=4).x
    path = detector.save(tmp_path / "detector.safetensors")
    again = ManifoldDetector.load(path, detector.model)
    assert torch.equal(again.score(x), detector.score(x))
    assert torch.equal(again.flags(x), detector.flags(x))
    assert again.threshold == detector.threshold and again.record() == detector.record()
    assert path.read_bytes() == again.save(tmp_path / "again.safetensors").read_bytes()
    held = [value for part in detector.fitted.parts for value in vars(part).values()]
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    assert all(tensor.is_contiguous() for tensor in tensors)  # as they are read: to the last bit


def test_the_gradient_is_that_of_the_score(detector):
    x = lifted(on_plane(4, seed=5).x, 0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.distances(x).sum(), x)
    generator = torch.Generator().manual_seed(0)
    step = 1e-6 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        change = detector.distances(x + step) - detector.distances(x - step)
    wanted = 2 * (gradient * step).flatten(1).sum(1)
    torch.testing.assert_close(change, wanted, rtol=1e-3, atol=1e-9)


def test_the_tangent_score_is_the_height_above_the_plane():
    detector = fitted("tangent")
    x = on_plane(30, seed=6).x
    assert detector.score(x).max() < 1e-6
    for height in (0.01, 0.1, 0.5):
        torch.testing.assert_close(
            detector.score(lifted(x, height)),
            torch.full((30,), height, dtype=torch.float64),
            rtol=1e-5,
            atol=1e-6,
        )


def neighbors_of(detector, x):
    reference = detector.fitted.parts[0].reference.double().numpy()
    row = x.flatten().double().numpy()
    order = np.argsort(((reference - row) ** 2).sum(1))
    return row, reference[order[: detector.neighbors]]


def lle_twin(row, near):
    away = near - row
    gram = away @ away.T
    weights = np.linalg.lstsq(gram + 1e-3 * np.trace(gram) * np.eye(len(gram)), np.ones(len(gram)))
    weights = weights[0] / weights[0].sum()
    return np.linalg.norm(row - weights @ near)


def tangent_twin(row, near):
    mean = near.mean(0)
    rows = np.linalg.svd(near - mean)[2][:12]
    return np.linalg.norm((row - mean) - rows.T @ (rows @ (row - mean)))


TWINS = {
    "knn": lambda row, near: np.mean([np.linalg.norm(row - other) for other in near]),
    "linf": lambda row, near: np.mean([np.abs(row - other).max() for other in near]),
    "lle": lle_twin,
    "tangent": tangent_twin,
}


@pytest.mark.parametrize("name", TWINS)
def test_naive_twins(name):
    generator = torch.Generator().manual_seed(0)
    reference = Data(torch.rand(200, 1, 6, 6, generator=generator), torch.arange(200) % 3, 3)
    detector = fitted(name, reference=reference, neighbors=20)
    x = torch.rand(10, 1, 6, 6, generator=generator)
    wanted = [TWINS[name](*neighbors_of(detector, image)) for image in x]
    torch.testing.assert_close(detector.score(x), torch.tensor(wanted).double(), rtol=1e-6, atol=0)


def test_the_bandwidth_of_the_density_is_the_likeliest():
    detector = fitted("kde")
    (part,) = detector.fitted.parts
    distances = torch.cdist(part.reference.double(), part.reference.double())
    squares = distances.fill_diagonal_(torch.inf).square().sort(1).values[:, :10]

    def likelihood(width):
        kernels = torch.exp(-squares / (2 * width**2)).mean(1)
        return float((kernels.log() - AMBIENT * torch.tensor(width).log()).mean())

    best = float(part.bandwidth)
    assert likelihood(best) >= max(likelihood(best * by) for by in (0.9, 0.98, 1.02, 1.1))
    x = on_plane(5, seed=7).x
    row, near = neighbors_of(detector, x[0])
    kernels = np.exp(-((near - row) ** 2).sum(1) / (2 * best**2))
    assert float(detector.score(x[:1])) == pytest.approx(-np.log(kernels.mean()), rel=1e-6)


@pytest.mark.parametrize("name", ["knn", "linf", "kde", "lle"])
def test_a_reference_point_has_the_smallest_score_of_its_neighborhood(name):
    detector = fitted(name, neighbors=1)
    generator = torch.Generator().manual_seed(0)
    points = on_plane(150).x[:20]
    own = detector.score(points)
    for size in (1e-4, 1e-2, 0.1):
        noise = size * torch.randn(points.shape, generator=generator)
        assert (detector.score((points + noise).clamp(0, 1)) >= own).all()


def test_mahalanobis_is_euclidean_for_round_classes():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(6000) % 2
    centers = torch.tensor([[0.3] * 4, [0.7] * 4])
    x = (centers[y] + 0.03 * torch.randn(6000, 4, generator=generator)).view(-1, 1, 2, 2)
    detector = ManifoldDetector("mahalanobis").fit(Data(x.clamp(0, 1), y, 2))
    score = detector.score(torch.full((1, 1, 2, 2), 0.7) + 0.03)
    assert float(score) == pytest.approx(2.0, rel=0.05)


def test_features_of_several_layers_come_from_one_pass():
    net, runs = small_cnn(3, 1, 2), []
    net.register_forward_hook(lambda *_: runs.append(1))
    names = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d)]
    x = torch.rand(5, 1, 6, 6)
    features = layer_pass(net, x, tuple(names)).features
    assert len(runs) == 1 and all(rows.shape[0] == 5 and rows.ndim == 2 for rows in features)
    seen = []
    net.get_submodule(names[0]).register_forward_hook(lambda _, __, out: seen.append(out))
    net.eval()(x)
    torch.testing.assert_close(features[0], seen[0].mean((2, 3)), rtol=1e-5, atol=1e-6)
    runs.clear()
    ManifoldDetector("lle", 3, names).fit((x, torch.zeros(5).long()), net)
    assert len(runs) == 1


class Swapped(nn.Module):
    """Maps (n, h, w, channels), as of Swin."""

    def forward(self, x):
        return x.expand(-1, 5, -1, -1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("last", [True, False])
def test_maps_whose_channels_seem_to_be_last_are_told_of(last):
    net = nn.Sequential(Swapped() if last else nn.Identity(), nn.Flatten())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        layer_pass(net, torch.rand(4, 1, 6, 6), ("0",))
    assert [("channels first" in str(each.message)) for each in said] == [True] * last


def test_several_layers_are_averaged_in_units_of_their_typical_score():
    reference, x = on_plane(150), on_plane(20, seed=8).x
    net = network()
    both = ManifoldDetector("knn", 10, ("1", "3")).fit(reference, net)
    single = [ManifoldDetector("knn", 10, name).fit(reference, net).score(x) for name in ("1", "3")]
    wanted = sum(part / scale for part, scale in zip(single, both.fitted.scales, strict=True)) / 2
    torch.testing.assert_close(both.score(x), wanted)
    assert ((both.score(x).median() - 1).abs()) < 0.5


def test_inconsistency_sees_layers_that_do_not_go_together():
    reference = on_plane(200)
    detector = fitted("inconsistency", layer=("3", "5"), reference=reference)
    (part,) = detector.fitted.parts
    first, second = layer_pass(detector.model, on_plane(50, seed=9).x, ("3", "5")).features
    together, apart = part(first, second), part(first, second.flip(0))
    assert together.median() < 0.5 * apart.median()


def wide():
    return nn.Sequential(
        nn.Flatten(), nn.ZeroPad1d((0, 8193 - AMBIENT)), nn.Linear(8193, 2)
    ).double()


class Broken(nn.Module):
    """Features that are not finite for images whose first pixel is below a bound."""

    def __init__(self, odd, below):
        super().__init__()
        self.odd, self.below = odd, below
        self.one, self.two = nn.Identity(), nn.Linear(AMBIENT, 3).double()

    def forward(self, x):
        rows = x.flatten(1)
        odd = torch.full_like(rows, self.odd)
        return self.two(self.one(torch.where(rows[:, :1] < self.below, odd, rows)))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e200])
@pytest.mark.parametrize(("name", "index"), KINDS)
def test_features_that_are_not_finite_never_pass_as_clean(name, index, odd):
    """The score of an input without finite features is no number, and NaN is above no threshold."""
    if index == "approximate":
        pytest.importorskip("faiss")
    layer = ("one", "two") if name == "inconsistency" else "one"
    broken = Broken(odd, below=0.2)
    detector = ManifoldDetector(name, 5, layer, index).fit(on_plane(150), broken)
    detector.calibrate(on_plane(100, seed=1))
    x = on_plane(20, seed=2).x
    assert torch.isfinite(detector.score(x)).all()
    x[3, 0, 0, 0] = 0.1
    for ask in (detector.score, detector.flags, detector.answers):
        refused(lambda ask=ask: ask(x), "layer 'one'", "for 1 of 20 inputs")
    clean = Data(torch.cat([on_plane(100, seed=1).x, x]), torch.zeros(120).long(), 3)
    refused(lambda: detector.calibrate(clean), "layer 'one'")
    refused(lambda: ManifoldDetector(name, 5, layer, index).fit(clean, broken), "layer 'one'")
    if name in OVER_NEIGHBORS and index == "exact":
        refused(lambda: screen_trusted(clean, broken, "one", 5, name), "layer 'one'")


X, Y = on_plane(30).x, on_plane(30).y
REFUSED = {
    "score": (lambda: ManifoldDetector("lles"), "did you mean lle"),
    "one layer": (lambda: ManifoldDetector("inconsistency", layer="1"), "1 layer for"),
    "no layer": (lambda: ManifoldDetector("inconsistency"), "two or more"),
    "neighbors": (lambda: ManifoldDetector(neighbors=31).fit((X, Y)), "neighbors = 31"),
    "no neighbors": (lambda: ManifoldDetector(neighbors=0).fit((X, Y)), "neighbors = 0"),
    "a sample a class": (
        lambda: ManifoldDetector("mahalanobis").fit((X[:3], Y[:3])),
        "3 reference samples of 3 classes",
    ),
    "half a neighbor": (lambda: ManifoldDetector(neighbors=5.5).fit((X, Y)), "neighbors = 5.5"),
    "text for neighbors": (lambda: ManifoldDetector(neighbors="5").fit((X, Y)), "neighbors = '5'"),
    "layer": (
        lambda: ManifoldDetector(layer="conv1").fit((X, Y), small_cnn(3, 1, 2)),
        "layer 'conv1'",
    ),
    "no network": (lambda: ManifoldDetector(layer="1").fit((X, Y)), "no network"),
    "index": (lambda: ManifoldDetector(index="exakt"), "did you mean exact"),
    "no neighbors to find": (
        lambda: ManifoldDetector("mahalanobis", layer="1", index="approximate"),
        "a score over neighbors",
    ),
    "a layer twice": (lambda: ManifoldDetector("knn", layer=("1", "3", "1")), "layer '1' twice"),
    "layers that run the other way": (
        lambda: fitted("inconsistency", layer=("3", "1")),
        "pass layer=('1', '3')",
    ),
    "no neighbors of a score without": (
        lambda: ManifoldDetector("mahalanobis", 0),
        "neighbors = 0",
    ),
    "too many features to predict from": (
        lambda: ManifoldDetector("inconsistency", layer=("1", "2")).fit((X, Y), wide()),
        "8193 features",
    ),
    "not fitted": (lambda: ManifoldDetector().score(X), "call fit first"),
    "no threshold": (lambda: fitted("lle").flags(X), "call calibrate"),
    "no answers": (lambda: fitted("lle").answers(X), "no network"),
    "shape": (lambda: fitted("lle").score(X[:, :, :5]), "(30, 1, 5, 6)"),
    "one image": (lambda: fitted("lle").score(X[0]), "(1, 6, 6)"),
    "range": (lambda: fitted("lle").score(2 * X), "inputs from"),
    "NaN": (lambda: fitted("lle").score(X * torch.nan), "nan"),
    "overlap": (lambda: fitted("lle").calibrate(on_plane(150)), "150 of 150 calibration samples"),
    "rate": (lambda: fitted("lle").calibrate(on_plane(20, seed=1)), "from 20 samples"),
    "no rate": (lambda: fitted("lle").calibrate(on_plane(99, seed=1), 0), "false_positive_rate"),
    "text for a rate": (lambda: fitted("lle").calibrate(on_plane(99, seed=1), "5 %"), "'5 %'"),
    "another network": (
        lambda: fitted("lle", layer="1").attach(nn.Linear(2, 2)),
        "the one that the detector was fitted with",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line(name):
    call, words = REFUSED[name]
    refused(call, words)


def test_files_that_are_no_detectors_are_refused(tmp_path):
    path = fitted("lle").save(tmp_path / "detector.safetensors")
    content = path.read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    refused(lambda: ManifoldDetector.load(tmp_path / "half.safetensors"), "half")
    renamed = content.replace(b"part0.reference", b"part0.REFERENCE")
    (tmp_path / "renamed.safetensors").write_bytes(renamed)
    refused(lambda: ManifoldDetector.load(tmp_path / "renamed.safetensors"), "reference")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.pt")
    refused(lambda: ManifoldDetector.load(tmp_path / "pickle.pt"), "no detector")
    refused(lambda: ManifoldDetector.load(tmp_path / "none.safetensors"), "none")


def test_a_loaded_detector_of_layers_needs_its_network(tmp_path):
    detector = fitted("lle", layer="1")
    path = detector.save(tmp_path / "detector.safetensors")
    refused(lambda: ManifoldDetector.load(path).score(X), "no network")
    other = network()
    other[1].weight.data[0, 0] += 1e-6
    refused(lambda: ManifoldDetector.load(path, other), "the one that the detector")
    assert torch.equal(ManifoldDetector.load(path, network()).score(X), detector.score(X))
