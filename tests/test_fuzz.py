"""Whatever is in a file, it is read or refused in one line: no traceback, no hang, no code run."""

import pytest
from support.fuzzed import fuzz, seeds

KINDS = ("safetensors", "torch", "index", "curve", "npz", "parquet", "image", "report", "sweep")
KINDS = (*KINDS, "references", "pruned", "quantized")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    files = seeds(tmp_path_factory.mktemp("fuzz"))
    assert files.keys() == set(KINDS)
    return files


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused(kind, good):
    words = fuzz(kind, *good[kind], count=40, seed=0)
    assert words["refused"]
