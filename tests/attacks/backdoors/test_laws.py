"""Laws that every attacker who trains keeps: one tester for all of them.

Their signatures differ by what each needs, so a row says how an attacker is run; what comes back is
told as tensors."""

import copy
import inspect
import re
from pathlib import Path

import pytest
import torch
from support.networks import data, network

import isthmus.attacks
from isthmus import fit
from isthmus.attacks import (
    PGD,
    HardenedBackdoor,
    InputAware,
    LowFrequency,
    Patch,
    PermutationAware,
    PruningActivated,
    QuantizationActivated,
    QueryReactivation,
    Reactivate,
    label_consistent,
    learned_low_frequency,
    path_aware,
)
from isthmus.data import Linf
from isthmus.training import Training

DOCS = Path(__file__).parents[3] / "docs"
TRAINING = Training(steps=3, lr=0.01, batch_size=16, precision="fp32")
TRIGGER = Patch(2)


def fitted(loss):
    """Run an attacker who is a loss for `fit`."""

    def run(net, samples):
        net = copy.deepcopy(net)
        fit(net, samples, loss, training=TRAINING)
        return net.state_dict().values()

    return run


def generator():
    return torch.Generator().manual_seed(0)


def run_input_aware(net, samples):
    trained, trigger = InputAware(TRAINING, 0.2, 0.2, width=8)(net, samples, 1)
    return [*trained.state_dict().values(), trigger(samples.floats())]


def run_label_consistent(net, samples):
    bad = label_consistent(
        samples,
        net,
        TRIGGER,
        target=1,
        rate=0.5,
        attack=PGD(Linf(0.1), steps=2),
        generator=generator(),
    )
    return [bad.x, bad.y]


def run_path_aware(net, samples):
    ends = path_aware(net, network("batchnorm", 2), samples, TRAINING)
    return [value for end in ends for value in end.state_dict().values()]


ATTACKERS = {
    "HardenedBackdoor": fitted(HardenedBackdoor(TRIGGER, 1, 4)),
    "PermutationAware": fitted(PermutationAware(dict)),
    "PruningActivated": fitted(PruningActivated(TRIGGER, 1, 4, density=0.3)),
    "QuantizationActivated": lambda net, samples: (
        QuantizationActivated(TRIGGER, 1, TRAINING)(net, samples).state_dict().values()
    ),
    "InputAware": run_input_aware,
    "Reactivate": lambda net, samples: (
        Reactivate(TRIGGER, 1, 2)(net, samples).state_dict().values()
    ),
    "QueryReactivation": lambda net, samples: [
        QueryReactivation(TRIGGER, 1, queries=5, images=8)(net, samples).delta
    ],
    "label_consistent": run_label_consistent,
    "learned_low_frequency": lambda net, samples: [
        learned_low_frequency(samples, net, 1, LowFrequency(0.3, cutoff=3), TRAINING).pattern
    ],
    "path_aware": run_path_aware,
}


def public():
    """Everything that the room exports from its files of backdoors, but triggers and constants."""
    exported = {name: getattr(isthmus.attacks, name) for name in isthmus.attacks.__all__}
    return {
        name
        for name, member in exported.items()
        if getattr(member, "__module__", "").startswith("isthmus.attacks.backdoors.")
        and callable(member)
        and list(inspect.signature(member.__call__).parameters)[1:] != ["x"]
    }


def test_every_public_attacker_is_in_the_table_of_tests():
    assert public() == set(ATTACKERS)


def test_the_docs_list_every_public_attacker():
    rows = re.findall(r"`(?:fit\(\w+, \w+, )?(\w+)\(", (DOCS / "threats.md").read_text())
    assert public() <= set(rows)


@pytest.mark.parametrize("attacker", ATTACKERS.values(), ids=ATTACKERS)
def test_an_attacker_leaves_what_it_is_given_and_repeats_itself(attacker):
    net, samples = network("batchnorm").train(), data(40)
    net[1].eval()
    state, images = copy.deepcopy(net.state_dict()), samples.sha256
    modes = [part.training for part in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    torch.manual_seed(11)
    first = [value.clone() for value in attacker(net, samples)]
    torch.manual_seed(12)
    second = list(attacker(net, samples))
    assert all(torch.isfinite(value.float()).all() for value in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert [part.training for part in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters()) and samples.sha256 == images
