"""What all tests share: one thread, since many small networks on two threads are slower, and a
precision that no clock decides; see `networks` for the zoo.
"""

import os

# Before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from support.backdoored import backdoored, bonafide_and_evaluation

from isthmus.runs import fast_precision

# `auto` is what the hardware offers, not what is quicker on a machine that does other things too.
os.environ["ISTHMUS_PRECISION"] = fast_precision(torch.device("cpu"))

settings.register_profile("no clock", deadline=None)  # a loaded machine is slow, and right
settings.load_profile("no clock")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_suite(tmp_path_factory):
    """Keep decoded images apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISTHMUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tampered():
    return backdoored()


@pytest.fixture(scope="session")
def samples():
    return bonafide_and_evaluation()


@pytest.fixture(autouse=True)
def same_draws():
    """Start every test from one state of the global generator: alone or among others, it draws the
    same.
    """
    torch.manual_seed(0)
