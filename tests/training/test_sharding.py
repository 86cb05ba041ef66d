"""Weights shared out over two processes: what comes of it is what one process makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.networks import data
from support.sharded_worker import JOBS, OPTIONS, REFUSED

from isthmus import fit

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder in which two processes have left what each ended with."""
    folder = tmp_path_factory.mktemp("sharded")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run = subprocess.run(
        [sys.executable, *launch, "-m", "support.sharded_worker", str(folder)],
        cwd=HERE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_end_with_what_one_makes_of_both_batches(name, launched):
    module, loss, more = JOBS[name]()
    halves = {"batch_size": 16, "microbatch": 8, "recompute": False}  # each with its own BatchNorm
    fit(module, data(), loss, device="cpu", **{**OPTIONS, **more, **halves})
    expected = module.state_dict()
    ends = [torch.load(launched / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    for key, value in expected.items():
        found = [end["through"][key] for end in ends]
        assert torch.equal(*found), key
        statistic = "running" in key or "tracked" in key  # of the first rank's half of each batch
        assert statistic or torch.allclose(value, found[0], atol=2e-5), key


@pytest.mark.parametrize("name", JOBS)
def test_an_interrupted_run_goes_on_to_the_same_bits(name, launched):
    for rank in range(2):
        end = torch.load(launched / f"{name}-{rank}.pt", weights_only=True)
        for key, value in end["through"].items():
            assert torch.equal(value, end["resumed"][key]), key


def test_a_network_that_is_shared_out_is_computed_again_in_parts(launched):
    """Where it could not be, a notice would say so."""
    for rank in range(2):
        assert torch.load(launched / f"network-{rank}.pt", weights_only=True)["said"] == []


@pytest.mark.parametrize("name", REFUSED)
def test_losses_that_need_whole_weights_are_refused(name, launched):
    for rank in range(2):
        said = (launched / f"{name}-{rank}.txt").read_text()
        assert name in said and "shared out" in said and "--shard" in said and "\n" not in said


def test_a_rank_that_has_parted_from_the_others_has_no_threads_left(launched):
    """Threads of a group that is still held are taken down with Python, now and then badly."""
    assert [(launched / f"threads-{rank}.txt").read_text() for rank in range(2)] == ["", ""]


def test_one_process_has_nothing_to_share_out():
    ends = []
    for shard in (False, True):
        module, loss, _ = JOBS["norms"]()
        fit(module, data(), loss, shard=shard, device="cpu", **OPTIONS)
        ends.append(module.state_dict())
    assert all(torch.allclose(value, ends[1][key], atol=1e-5) for key, value in ends[0].items())
