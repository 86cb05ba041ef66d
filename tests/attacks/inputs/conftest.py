"""What the tests of attacks share: a network, and images that it answers as they are labeled."""

import pytest
from support.attacked import answered
from support.networks import network


@pytest.fixture
def net():
    return network("batchnorm")


@pytest.fixture(scope="session")
def samples():
    some = answered()
    return some.x, some.y
