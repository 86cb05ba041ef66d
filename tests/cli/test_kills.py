"""A command that is killed and run again writes what it writes undisturbed, bit for bit."""

import shutil

import pytest
from support.killed import COMMANDS, check, prepare

BRIEF = ("path", "attack")


@pytest.mark.parametrize("name", BRIEF)
def test_a_killed_command_goes_on_to_the_same_result(name, straight, tmp_path):
    for file in ("a", "b"):
        shutil.copy(straight / f"{file}.safetensors", tmp_path)
    shutil.copy(straight / "straight.safetensors", tmp_path / "curve.safetensors")
    check(name, tmp_path, kills=1, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("kills")
    prepare(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - set(BRIEF)))
def test_a_killed_command_of_many_steps_goes_on_to_the_same_result(name, folder):
    check(name, folder, kills=2, seed=0)
