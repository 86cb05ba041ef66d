"""Training through torch.compile: the same losses, one compilation for all t, a way back."""

import warnings

import pytest
import torch
from support.networks import data, network, pair
from torch._dynamo.utils import counters

from isthmus import connect, fit
from isthmus.models import compiled
from isthmus.runs.notices import Notice
from isthmus.training import cross_entropy, sharpness_aware

OPTIONS = {"steps": 6, "lr": 0.1, "batch_size": 8, "precision": "fp32"}


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Compile as far as the graph of the backward pass; kernels take minutes and a C++ compiler."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["batchnorm", "layernorm", "tied"])
@pytest.mark.parametrize("loss", [cross_entropy, sharpness_aware(rho=0.1)], ids=["plain", "sharp"])
def test_training_compiled_is_training(kind, loss):
    plain, other = network(kind), network(kind)
    expected = fit(plain, data(), loss, **OPTIONS)
    found = fit(other, data(), loss, compile=True, **OPTIONS)
    assert counters["stats"]["unique_graphs"]
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert other._compiled_call_impl is None


def test_another_t_compiles_nothing():
    options = {**OPTIONS, "bends": 1, "compile": True}
    connect(*pair("batchnorm"), data(), **{**options, "steps": 2})
    once = counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    counters.clear()
    curve, _ = connect(*pair("batchnorm"), data(), **{**options, "steps": 12})
    assert counters["stats"]["unique_graphs"] == once > 0
    plain, _ = connect(*pair("batchnorm"), data(), **{**options, "steps": 12, "compile": False})
    assert torch.allclose(curve.bends, plain.bends, atol=1e-4)


def test_a_network_that_does_not_compile_is_trained_as_it_is(monkeypatch):
    def refusing(*_):
        raise ValueError("no compiler\nhere")

    monkeypatch.setattr(compiled, "BACKEND", refusing)
    plain, other = network("batchnorm"), network("batchnorm")
    fit(plain, data(), **OPTIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(other, data(), compile=True, **OPTIONS)
    (said,) = [str(w.message) for w in caught if issubclass(w.category, Notice)]
    assert said.startswith("the network is not compiled, and runs as it is: ")
    assert "no compiler" in said and "\n" not in said
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_the_network_raises_is_its_own():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 3))
    with pytest.raises(RuntimeError, match="shape"):
        fit(net, data(), compile=True, **OPTIONS)
    assert net._compiled_call_impl is None
