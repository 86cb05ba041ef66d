"""The plane through three networks: where they are on it, what is there, and how it is drawn."""

import json
import math

import pytest
import torch
from support.networks import data, network, pair
from support.refusals import refused

from isthmus import Bezier, recalibrate
from isthmus.curves import Plane
from isthmus.evidence import figures
from isthmus.metrics import MeanLoss, evaluate_plane

pytestmark = pytest.mark.numeric


def flat(net):
    return torch.cat(
        [p.detach().reshape(-1).double() for p in net.parameters() if p.is_floating_point()]
    )


@pytest.mark.parametrize("kind", ["batchnorm", "tied", "frozen", "mixed"])
def test_the_three_networks_are_at_their_corners_and_distances_are_true(kind):
    nets = [network(kind, seed) for seed in range(3)]
    plane = Plane(*nets)
    for net, corner in zip(nets, plane.corners, strict=True):
        assert torch.allclose(flat(plane.at(*corner)), flat(net), atol=1e-5)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        distance = math.dist(plane.corners[i], plane.corners[j])
        assert distance == pytest.approx(float((flat(nets[i]) - flat(nets[j])).norm()), rel=1e-12)
    x, y = 0.3, -0.7
    assert sum(plane.coefficients(x, y)) == pytest.approx(1)
    assert float((flat(plane.at(x, y)) - flat(nets[0])).norm()) == pytest.approx(
        math.hypot(x, y), rel=1e-3
    )
    assert all(
        torch.equal(p, q)
        for p, q in zip(nets[0].parameters(), network(kind, 0).parameters(), strict=True)
    )


def test_a_curve_with_one_bend_lies_in_the_plane_of_its_middle():
    curve = Bezier(*pair("batchnorm"))
    with torch.no_grad():
        curve.bends.add_(torch.randn_like(curve.bends))
    plane = Plane(curve.export(0.0), curve.export(1.0), curve.export(0.5))
    there = flat(curve.export(0.2)) - flat(plane.networks[0])
    axes = torch.stack(
        [flat(plane.at(*at)) - flat(plane.networks[0]) for at in ((1.0, 0.0), (0.0, 1.0))]
    )
    x, y = (axes @ there).tolist()
    assert torch.allclose(flat(plane.at(x, y)), flat(curve.export(0.2)), atol=1e-4)


def test_every_value_is_that_of_the_recalibrated_network_there():
    plane, asked = Plane(*(network("batchnorm", seed) for seed in range(3))), data(16)
    found = evaluate_plane(plane, {"loss": MeanLoss(asked)}, 3, recalibrate_on=asked, margin=0.5)
    at = (found.x[2], found.y[1])
    assert found.values["loss"][1][2] == MeanLoss(asked)(recalibrate(plane.at(*at), asked))
    assert found.x[0] < min(x for x, _ in plane.corners) and found.y[-1] > max(
        y for _, y in plane.corners
    )
    json.dumps(found.record())
    figure = figures.contours(found, "loss", corners=("a", "b", "c"))
    assert {"a", "b", "c"} <= {t.get_text() for t in figure.axes[0].texts}
    refused(lambda: figures.contours(found, "accuracy"), "accuracy")


def test_what_spans_no_plane_is_refused():
    one, two = pair("batchnorm")
    refused(lambda: Plane(one, two, one), "one line")
    refused(lambda: Plane(one, two, Bezier(one, two, bends=0).export(0.5)), "one line")
    refused(lambda: Plane(one, one, two), "one line")
    refused(lambda: Plane(one, two, network("linear")), "differ in")
    asked = data(8)
    refused(
        lambda: evaluate_plane(
            Plane(one, two, network("batchnorm", 3)), {}, 1, recalibrate_on=asked
        ),
        "side = 1",
    )
