"""The user's own network, by name."""

import pytest
from support.refusals import refused

from isthmus.models import model_factory


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = """
from torch import nn
def network(width: int = 4, bias=True, scale=1.0, name=None, *, deep=False):
    net = nn.Linear(2, width, bias=bias)
    net.settings = (width, bias, scale, name, deep)
    return net
def anything(**named): return nn.Linear(2, named["width"])
def failing(): raise RuntimeError("no\\nluck")
def nothing(): return {"w": 1}
def leaving(): raise SystemExit(0)
made = nn.Linear(2, 2)
number = 3
"""
    (tmp_path / "own_nets.py").write_text(code)
    (tmp_path / "broken_nets.py").write_text("def network(:\n")
    (tmp_path / "lazy_nets.py").write_text(
        "def __getattr__(name):\n"
        "    if name == 'Network': raise ImportError('no vision')\n"
        "    raise AttributeError(name)\n"
    )
    (tmp_path / "script_nets.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "needy_nets.py").write_text("import a_package_that_is_not_there\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ("", (4, True, 1.0, None, False)),
        (",width=3", (3, True, 1.0, None, False)),
        (",width=3,bias=false,scale=1e-2,name=wide,deep=TRUE", (3, False, 0.01, "wide", True)),
        (",name=none,scale=-2", (4, True, -2, None, False)),
    ],
)
def test_a_factory_is_called_with_what_the_spec_says(arguments, settings, here):
    factory = model_factory(f"own_nets:network{arguments}")
    assert factory().settings == settings and factory() is not factory()


def test_library_networks_and_open_arguments(here):
    assert model_factory("own_nets:anything,width=3")().out_features == 3
    assert model_factory("torch.nn:Linear,in_features=2,out_features=3")().out_features == 3
    assert len(model_factory("isthmus.models:preact_resnet,depth=8")().blocks) == 3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("own_nets", ["'own_nets'", "PKG.MODULE:FACTORY", "isthmus.models:preact_resnet,depth=20"]),
        (":network", ["':network'", "PKG.MODULE:FACTORY"]),
        ("own_net:network", ["unknown module 'own_net'", "did you mean own_nets"]),
        ("isthmus.model:preact_resnet", ["unknown module 'isthmus.model'", "did you mean models"]),
        (
            "own_nets.deep:network",
            ["unknown module 'own_nets.deep'", "run where it can be imported"],
        ),
        (
            "broken_nets:network",
            ["'broken_nets'", "fails to import (SyntaxError", "correct the module"],
        ),
        (
            "needy_nets:network",
            ["'needy_nets'", "needs a_package_that_is_not_there", "pip install"],
        ),
        (
            "lazy_nets:Network",
            ["'Network'", "fails to import in lazy_nets", "no vision"],
        ),
        ("lazy_nets:Network.from_pretrained", ["'Network'", "fails to import in lazy_nets"]),
        ("script_nets:network", ["'script_nets'", "fails to import (SystemExit: 0"]),
        ("own_nets:netwrk", ["'netwrk', unknown in own_nets", "did you mean network"]),
        ("own_nets:nn.Linear.forward", ["'nn.Linear.forward', a method", "wrap it in a function"]),
        ("own_nets:made", ["a Linear", "a callable that builds the network"]),
        ("own_nets:number", ["a int", "a callable that builds the network"]),
        ("own_nets:network,widht=3", ["widht", "network(width", "did you mean width"]),
        ("own_nets:network,width", ["'width'", "name=value"]),
        ("own_nets:network,width=3,width=4", ["twice", "each argument once", "remove one"]),
        ("torch.nn:Linear,in_features=2", ["out_features", "pass it as ,name=value"]),
        ("isthmus.models:preact_resnet,depth=9", ["depth 9", "6n + 2"]),
    ],
)
def test_bad_specs_are_refused_in_one_line(spec, words, here):
    refused(lambda: model_factory(spec)(), *words)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("own_nets:failing", ["RuntimeError: no", "builds the network"]),
        ("own_nets:leaving", ["SystemExit: 0", "builds the network"]),
        ("own_nets:nothing", ["returns a dict", "torch.nn.Module", "return the network"]),
        ("own_nets:network,width=-1", ["which fails", "correct it or its arguments"]),
        ("own_nets:network,width=wide", ["TypeError", "correct it or its arguments"]),
    ],
)
def test_factories_that_build_no_network_are_refused(spec, words, here):
    refused(model_factory(spec), *words)
