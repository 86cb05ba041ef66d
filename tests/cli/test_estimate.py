"""What a command says before its work: how long it takes, and what an inspection can answer."""

import re

import pytest
import torch
from support.command_line import MODEL, isthmus

from isthmus.attacks import APGD, FAB, PGD, Square, WorstOf
from isthmus.cli.estimate import Part, in_words, pace, pace_with_gradients, parts_of, together
from isthmus.data import Data, Linf, load_data
from isthmus.metrics import Accuracy, MeanLoss, RobustAccuracy, measure
from isthmus.metrics.landscape import landscape_metrics
from isthmus.models import model_factory

TEST = load_data("digits:test")[:6]
LINE = r"isthmus: about \d+:\d\d (min|h) in all"


class Counted(torch.nn.Module):
    """A network that counts the images that it passes without and with gradients."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        self.plain, self.graded = 0, 0

    def forward(self, x):
        if torch.is_grad_enabled():
            self.graded += len(x)
        else:
            self.plain += len(x)
        return self.body(x)


class HoldsFew(Counted):
    """A network that holds a few images at a time, and remembers its largest passes."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        graded = torch.is_grad_enabled()
        self.plain = max(self.plain, 0 if graded else len(x))
        self.graded = max(self.graded, len(x) if graded else 0)
        return self.body(x)


@pytest.mark.parametrize("restarts", [1, 3])
def test_no_attack_takes_more_gradients_than_the_estimate(restarts):
    ball = Linf(1e-6)  # in which no answer changes, so that no sample drops out
    attack = PGD(ball, steps=5, restarts=restarts)
    network = Counted()
    with torch.no_grad():
        answers = network(TEST.floats()).argmax(1)
    RobustAccuracy(Data(TEST.x, answers, TEST.classes), attack)(network)
    most = len(TEST) * attack.gradients
    assert 0.5 * most < network.graded <= most
    assert Square(ball, queries=300).gradients == 100
    assert WorstOf([attack, attack]).gradients == 2 * attack.gradients


@pytest.mark.parametrize(
    "attack", [APGD(Linf(1e-6), "targeted", steps=5), FAB(Linf(1e-6), steps=5)], ids=["APGD", "FAB"]
)
def test_every_target_is_in_the_estimate(attack):
    network = Counted()
    with torch.no_grad():
        answers = network(TEST.floats()).argmax(1)
    network.plain = 0
    RobustAccuracy(Data(TEST.x, answers, TEST.classes), attack)(network)
    most = len(TEST) * attack.gradients
    assert 0.8 * most < network.graded + network.plain / 3 <= 1.3 * most


def test_what_metrics_share_counts_once():
    attack = PGD(Linf(0.1), steps=5)
    questions = {
        "accuracy": Accuracy(TEST),
        "loss": MeanLoss(TEST),
        "robust accuracy": RobustAccuracy(TEST, attack),
    }
    parts = parts_of(questions)
    assert parts == [Part("accuracy", 6), Part("robust accuracy", 6, 30)]
    network = Counted()
    measure(network, {name: questions[name] for name in ("accuracy", "loss")})
    assert network.plain in (6, 8)  # with or without a look at two images
    assert together("all", parts).times(2) == Part("all", 24, 60)
    landscape = together("landscape", parts_of(landscape_metrics(TEST, attack)))
    assert landscape.graded == 6 * 5 + 6 * 10  # the attack once, and the derivatives once


def test_an_image_takes_longer_with_gradients_than_none():
    plain, graded = pace(model_factory(MODEL)(), TEST.x)
    assert plain > 0 and graded > 0
    frozen = model_factory(MODEL)().requires_grad_(False)
    assert min(pace(frozen, TEST.x)) > 0
    assert in_words([], []) == "about 0:01 min in all"


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "a.safetensors", "--data", "digits:test#n=20"),
        ("inspect", "a.safetensors", "--clean", "digits:test#n=20", "--steps", 2),
        (
            *("prune", "a.safetensors", "--density", 0.5, "--clean", "digits:test#n=20"),
            *("--data", "digits:test#skip=400", "--steps", 2, "--out", "pruned"),
        ),
    ],
    ids=lambda command: command[0],
)
def test_a_command_of_several_parts_says_first_how_long_it_takes(command, home):
    done = isthmus(*command, "--model", MODEL, folder=home)
    assert done.returncode == 0, done.stderr
    assert re.match(LINE, done.stderr), done.stderr


@pytest.mark.parametrize("bends", [0, 1])
def test_where_a_training_runs_is_said_where_there_is_one(bends, home):
    repair = ("repair", "a.safetensors", "b.safetensors", "--model", MODEL, "--points", 3)
    options = ("--clean", "digits:test#n=200", "--steps", 3, "--bends", bends)
    done = isthmus(*repair, *options, "--out", f"bends{bends}", folder=home)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "in all" in line]
    assert ("; training on" in line) == bool(bends)


def test_an_inspection_says_first_what_it_can_answer(home):
    options = ("inspect", "a.safetensors", "--clean", "digits:test#n=20", "--steps", 2)
    done = isthmus(*options, "--model", MODEL, folder=home)
    lines = done.stdout.splitlines()
    first = next(line for line in lines if line.startswith("inspect "))
    assert "can only describe this network, not judge it" in first and "isthmus references" in first
    assert "Trigger" in done.stdout[done.stdout.index(first) :]


def test_a_network_that_holds_few_images_is_timed_in_passes_of_as_many():
    """An estimate took 64 at once, and ended a command whose work would have gone on in parts."""
    whole, graded = HoldsFew(24), HoldsFew(24)
    images = load_data("digits:test")[:64].x
    assert min(pace(whole, images)) > 0
    assert max(whole.plain, whole.graded) <= 24
    assert pace_with_gradients(graded, images, microbatch=4) > 0
    assert graded.graded == 4
