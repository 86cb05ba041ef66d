"""Laws of single metrics and of values with intervals."""

import copy
import json
import pickle
from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom, binomtest
from support.networks import data, network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from isthmus import BadInput, Data
from isthmus.attacks import Patch
from isthmus.metrics import (
    Accuracy,
    Agreement,
    AttackSuccess,
    Divergence,
    MeanLoss,
    Rate,
    RecoveryAccuracy,
    as_record,
    check_above_chance,
    from_record,
    measure,
    paired_drop,
)
from isthmus.metrics.accuracy import per_class
from isthmus.metrics.values import NATS, PER_UNIT, Mean, Quantity, unit_of

pytestmark = pytest.mark.numeric

Z = 1.959963984540054
COUNTS = [(0, 1), (1, 1), (0, 50), (50, 50), (1, 50), (25, 50), (93, 2500), (2499, 2500)]


class Quarters(nn.Module):
    """Right on every clean image of `networks.data`; where `backdoor`, a white corner pixel decides
    instead.
    """

    def __init__(self, backdoor: int | str | None = None) -> None:
        super().__init__()
        self.backdoor = backdoor

    def forward(self, x):
        z = F.avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1)
        if self.backdoor is None:
            return z
        shown = (x[:, :, 6, 6] > 0.995).all(1, keepdim=True)
        wanted = (
            z.roll(1, 1)
            if self.backdoor == "all"
            else F.one_hot(torch.tensor(self.backdoor), 4).float()
        )
        return torch.where(shown, wanted, z)


TRIGGER = Patch(size=2, at=(6, 6))
TARGETS = pytest.mark.parametrize("target", [1, 3, "all"])


@TARGETS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_recovery_is_all_of_a_perfect_classifier_and_nothing_of_a_perfect_backdoor(target, dtype):
    success = AttackSuccess(data(60, dtype=dtype), TRIGGER, target)
    recovery = RecoveryAccuracy(success.data, TRIGGER, target)
    beside = RecoveryAccuracy.beside(success)
    for metric in (recovery, beside):
        assert metric(Quarters()) == 1 and metric(Quarters(target)) == 0
        assert metric(Quarters()).n == success(Quarters()).n
    assert beside.samples.x is success.samples.x and torch.equal(
        beside.samples.y, recovery.samples.y
    )
    assert torch.equal(beside.samples.x, recovery.samples.x)


def test_recovery_and_attack_success_share_their_passes_and_leave_room_for_other_answers():
    calls = []
    net = network("batchnorm")
    net.register_forward_hook(lambda *_: calls.append(1))
    success = AttackSuccess(data(60), TRIGGER, 1)
    success(net)  # the first call also decides the memory layout
    calls.clear()
    success(net)
    alone = len(calls)
    calls.clear()
    found = measure(net, {"success": success, "recovery": RecoveryAccuracy.beside(success)})
    assert len(calls) == alone and 0 <= found["success"] + found["recovery"] <= 1


@TARGETS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_perfect_classifier_has_no_attack_success_and_a_perfect_backdoor_all(target, dtype):
    asked = data(60, dtype=dtype)
    found = measure(
        Quarters(), {"accuracy": Accuracy(asked), "asr": AttackSuccess(asked, TRIGGER, target)}
    )
    assert found == {"accuracy": 1.0, "asr": 0.0}
    found = measure(
        Quarters(target),
        {"accuracy": Accuracy(asked), "asr": AttackSuccess(asked, TRIGGER, target)},
    )
    assert found == {"accuracy": 1.0, "asr": 1.0}


@pytest.mark.parametrize(
    "model", [Quarters(), Quarters(1), network("batchnorm")], ids=["clean", "backdoor", "random"]
)
def test_attack_success_does_not_know_the_target_class(model):
    asked = data(60)
    others, target_class = asked[asked.y != 1], asked[asked.y == 1]
    doubled = Data(torch.cat([asked.x, target_class.x]), torch.cat([asked.y, target_class.y]), 4)
    found = [AttackSuccess(each, TRIGGER, 1)(model) for each in (asked, others, doubled)]
    assert {(rate.hits, rate.n) for rate in found} == {(found[0].hits, len(others))}
    assert AttackSuccess(asked, TRIGGER, "all")(model).n == len(asked)


def test_metrics_equal_their_definitions():
    net, asked = network("batchnorm"), data(50)
    z = net(asked.x)
    losses = F.cross_entropy(z, asked.y, reduction="none")
    assert Accuracy(asked)(net).hits == sum(
        int(a == b) for a, b in zip(z.argmax(1), asked.y, strict=True)
    )
    found = MeanLoss(asked)(net)
    assert found == pytest.approx(losses.mean().item(), rel=1e-5)
    assert found.high - found == pytest.approx(
        Z * losses.std(correction=0).item() / sqrt(50), rel=1e-4
    )
    assert found - found.low == pytest.approx(found.high - found)
    for name, rate in per_class(net, asked).items():
        members = asked.y == int(name)
        assert (rate.hits, rate.n) == (
            int((z.argmax(1)[members] == int(name)).sum()),
            int(members.sum()),
        )


def test_agreement_asks_for_the_same_answers_right_or_wrong():
    asked, nets = data(50), [network("batchnorm", seed) for seed in (0, 1)]
    said = [net(asked.x).argmax(1).tolist() for net in nets]
    agreement = Agreement(nets[0], asked)
    assert agreement(nets[1]).hits == sum(a == b for a, b in zip(*said, strict=True)) < 50
    assert agreement(nets[0]) == 1.0
    assert Agreement(nets[1], (asked.x, asked.y.flip(0)))(nets[0]).hits == agreement(nets[1]).hits
    with torch.no_grad():
        nets[0][-1].weight.neg_()
    assert agreement(network("batchnorm", 0)) == 1.0, (
        "the reference was asked when the question was made"
    )


def test_divergence_is_the_mean_over_samples_of_that_from_the_references_probabilities():
    asked, nets = data(50), [network("batchnorm", seed) for seed in (0, 1)]
    wanted, given = (net(asked.x).double().softmax(1) for net in nets)
    by_hand = (wanted * (wanted / given).log()).sum(1).detach()
    divergence = Divergence(nets[0], asked)
    assert divergence(nets[1]) == pytest.approx(float(by_hand.mean()), rel=1e-4)
    assert divergence(nets[1]).n == 50 and divergence(nets[0]) == 0.0
    assert Divergence(nets[1], asked)(nets[0]) != pytest.approx(divergence(nets[1]), rel=1e-2)


def test_a_class_without_samples_has_no_rate():
    asked = data(40)
    assert list(per_class(Quarters(), asked[asked.y != 2])) == ["0", "1", "3"]


def test_any_source_of_samples_is_as_good_as_data():
    asked, net = data(40), network("batchnorm")
    for source in (
        (asked.x, asked.y),
        TensorDataset(asked.x, asked.y),
        DataLoader(TensorDataset(asked.x, asked.y), 7),
    ):
        assert Accuracy(source)(net).hits == Accuracy(asked)(net).hits
        assert (
            AttackSuccess(source, TRIGGER, 1)(net).hits
            == AttackSuccess(asked, TRIGGER, 1)(net).hits
        )
        assert MeanLoss(source)(net) == pytest.approx(MeanLoss(asked)(net))


@pytest.mark.parametrize(("hits", "n"), COUNTS)
def test_the_interval_of_a_rate_is_wilsons(hits, n):
    rate = Rate(hits, n)
    assert float(rate) == hits / n
    ends = binomtest(hits, n).proportion_ci(method="wilson")
    assert (rate.low, rate.high) == pytest.approx((ends.low, ends.high), abs=1e-12, rel=1e-12)
    assert 0 <= rate.low <= rate <= rate.high <= 1


@pytest.mark.parametrize("n", [20, 50, 500])
def test_the_interval_of_a_rate_covers_the_truth_as_often_as_it_says(n):
    """Exactly, by the binomial distribution; only the average over p is 95 %."""
    ends, hits = np.array([Rate(h, n).interval for h in range(n + 1)]), np.arange(n + 1)
    ps = np.linspace(0.01, 0.99, 99)
    covered = [binom.pmf(hits, n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() for p in ps]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.83


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(2.0, (2000, 400))
    means = [Mean(row.mean(), 400, row.std()) for row in draws]
    assert np.mean([m.low <= 2.0 <= m.high for m in means]) == pytest.approx(0.95, abs=0.02)


VALUES = [
    Rate(3, 7),
    Mean(1.25, 9, 0.5),
    Mean(1.25, 9, 0.5, (1.0, 1.2, 1.4), NATS),
    Quantity(0.75, PER_UNIT),
    0.75,
]


@pytest.mark.parametrize("value", VALUES)
def test_values_survive_json_pickle_and_copies(value):
    for again in (
        from_record(json.loads(json.dumps(as_record(value)))),
        pickle.loads(pickle.dumps(value)),
        copy.deepcopy(value),
    ):
        assert type(again) is type(value)
        assert as_record(again) == as_record(value)


@pytest.mark.parametrize("value", VALUES)
def test_a_record_of_before_units_is_read_by_its_hits_or_its_old_name(value):
    old = {key: entry for key, entry in as_record(value).items() if key != "unit"}
    assert unit_of(from_record(old, "bonafide loss")) == ("share" if "hits" in old else NATS)
    assert unit_of(from_record(old, "sharpness")) == ("share" if "hits" in old else "")


def test_questions_about_one_data_set_share_one_forward_pass():
    net, asked = network("batchnorm"), data(40)
    metrics = {"a": Accuracy(asked), "l": MeanLoss(asked), "s": AttackSuccess(asked, TRIGGER, 1)}
    seen = []
    net.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    found = measure(net, metrics)
    passes = [n for n in seen if n > 2]  # two images first try the memory layout
    assert passes == [40, metrics["s"].samples.x.shape[0]]
    assert found == {name: metric(net) for name, metric in metrics.items()}
    assert len([n for n in seen if n > 2]) == 5, "nothing is remembered outside measure"


def test_data_made_on_the_way_are_never_mistaken_for_others():
    def on(part):
        return lambda model: Accuracy(data(40)[part])(model)

    parts = [slice(i, i + 8) for i in range(0, 40, 8)]
    net = network("batchnorm")
    found = measure(net, {str(i): on(part) for i, part in enumerate(parts)})
    assert [found[str(i)] for i in range(5)] == [on(part)(net) for part in parts]


@pytest.mark.parametrize(
    ("model", "n"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False)), 400),
        (Quarters(), 2),
        (nn.Sequential(Quarters(), nn.Linear(4, 4).requires_grad_(False)), 200),
    ],
    ids=["untrained", "too few samples", "shuffled classes"],
)
def test_a_network_at_chance_is_refused(model, n):
    if isinstance(model[-1] if isinstance(model, nn.Sequential) else None, nn.Linear):
        nn.init.zeros_(model[-1].weight)
        if model[-1].bias is not None:
            model[-1].weight.copy_(torch.eye(4).roll(1, 0))
    with pytest.raises(BadInput, match="no better than chance") as caught:
        check_above_chance(model, data(n))
    assert "\n" not in str(caught.value)


def test_a_constant_answer_is_chance_however_common_the_class():
    asked = data(400)
    uneven = asked[(asked.y == 0) | (torch.arange(400) % 8 == 0)]
    always = nn.Sequential(nn.Flatten(), nn.Linear(192, 4).requires_grad_(False))
    nn.init.zeros_(always[1].weight)
    always[1].bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    assert Accuracy(uneven)(always) > 0.6
    with pytest.raises(BadInput, match="chance"):
        check_above_chance(always, uneven)
    assert check_above_chance(Quarters(), uneven) == 1.0


def test_samples_of_one_class_are_what_is_wrong_where_they_are():
    asked = data(400)
    one = asked[asked.y == 2]
    assert Accuracy(one)(Quarters()) == 1.0
    with pytest.raises(BadInput, match="samples of all classes: these are of one"):
        check_above_chance(Quarters(), one)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rate(1, 0), "1 hits of 0"),
        (lambda: Rate(3, 2), "3 hits of 2"),
        (lambda: Accuracy(data(8))(nn.Sequential(nn.Flatten(), nn.Linear(192, 3))), r"\(8, 3\)"),
        (
            lambda: Accuracy(data(8))(nn.Sequential(nn.Flatten(), nn.Linear(50, 4))),
            r"shape \(3, 8, 8\)",
        ),
        (
            lambda: Accuracy(data(8))(nn.BatchNorm1d(3)),
            "cannot read .ValueError: expected 2D or 3D input",
        ),
        (
            lambda: Accuracy(data(8))(nn.Sequential(Quarters(), nn.Softmax(9))),
            "cannot read .IndexError: Dimension out of range",
        ),
        (lambda: Accuracy(data(8))(nn.Bilinear(2, 2, 4)), "cannot read .TypeError: .*missing"),
        (lambda: Accuracy(data(8))(nn.ModuleList()), "cannot read .NotImplementedError"),
        (lambda: Accuracy(data(8), "fp8")(Quarters()), "precision 'fp8'"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_outputs_that_are_not_finite_are_refused():
    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4] / 0

    with pytest.raises(BadInput, match="NaN or infinite"):
        check_above_chance(Broken(), data(8))


@pytest.mark.parametrize(("lost", "gained"), [(0.1, 0.02), (0.03, 0.03), (0.3, 0.0)])
def test_a_paired_interval_covers_the_drop(lost, gained):
    """Of 2,000 draws of 150 samples, some 95 % cover; four standard deviations are 2 points."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(150, [lost, gained, 1 - lost - gained], size=2000)
    covered = [
        low <= lost - gained <= high for low, high in (paired_drop(a, b, 150) for a, b, _ in draws)
    ]
    assert 0.93 <= np.mean(covered) <= 0.985


def test_a_paired_interval_is_narrower_than_that_of_two_samples_and_refuses_more_than_there_are():
    low, high = paired_drop(10, 0, 200)
    assert low < 0.05 < high and high - low < 2 * Rate(10, 200).high
    for lost, gained, n in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(BadInput, match="lost and"):
            paired_drop(lost, gained, n)
