"""Fine-tuning goes on from the tampered network; training from scratch forgets it."""

import torch
from support.refusals import refused
from support.victims import TRAINING, Odd, samples, victim

from isthmus.defenses import FineTune, FromScratch


def test_from_scratch_forgets_the_tampered_network():
    one, two = (FromScratch(TRAINING)(victim(seed), samples()) for seed in (0, 5))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_fine_tuning_takes_the_options_of_fit():
    slow, fast = (FineTune(TRAINING.replace(lr=lr))(victim(0), samples()) for lr in (1e-6, 0.1))
    assert (
        (slow[0].weight - victim(0)[0].weight).abs().max()
        < 1e-4
        < (fast[0].weight - victim(0)[0].weight).abs().max()
    )


def test_a_layer_that_cannot_be_initialized_anew_is_refused():
    refused(lambda: FromScratch(TRAINING)(Odd(), samples()), "reset_parameters")


def test_a_fresh_network_may_be_given_where_layers_cannot_reset_themselves():
    assert isinstance(FromScratch(TRAINING, fresh=Odd())(Odd(), samples()), Odd)
