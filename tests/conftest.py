"""What all tests share: one thread, since many small networks on two threads are slower; see
`networks` for the zoo.
"""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported, and for the processes that tests start

import pytest
from support.backdoored import backdoored, bonafide_and_evaluation


@pytest.fixture(scope="session")
def tampered():
    return backdoored()


@pytest.fixture(scope="session")
def samples():
    return bonafide_and_evaluation()
