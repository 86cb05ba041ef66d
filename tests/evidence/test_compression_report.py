"""What is written of a compression, and that nothing is where it is refused."""

import pytest
import torch
from support.refusals import refused
from support.rows import samples

from isthmus import Accuracy
from isthmus.compression import prune
from isthmus.evidence import compression
from isthmus.models import small_cnn
from isthmus.types import BadInput


def make():
    return small_cnn(3, 1, 4)


def fails(model):
    raise BadInput("a network", expected="another", fix="measure nothing")


@pytest.mark.parametrize("place", ["built", "metrics"])
def test_a_compression_that_cannot_be_measured_leaves_no_file(place, tmp_path):
    torch.manual_seed(0)
    net, data = make(), samples()
    metrics = {"accuracy": Accuracy(data)}
    words = {"network": "net", "provenance": {}}
    small = prune(net, data, 0.5)

    def run(built, measured):
        return compression(net, small, built, data, measured, tmp_path, **words)

    if place == "built":
        refused(lambda: run(small_cnn(3, 1, 2), metrics), "compressed.safetensors")
    else:
        refused(lambda: run(make(), metrics | {"failing": fails}), "measure nothing")
    assert not list(tmp_path.iterdir())
