"""Checkpoints: what goes in comes out, what does not fit is named, and nothing in a file is ever
run.
"""

import json
import os
import pickle
import resource
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from support.noticed import notices
from support.refusals import refused
from support.stored import Tied, Wrapped, convolutions, perceptron, same
from torch import nn
from torch.optim.swa_utils import AveragedModel

from isthmus.compression import Compressed
from isthmus.models import load_checkpoint, save_checkpoint
from isthmus.models.checkpoint import read_checkpoint
from isthmus.runs.notices import Notice

# ---- round trips

NETWORKS = {
    "tied": Tied,
    "convolutions": convolutions,
    "channels last": lambda: convolutions().to(memory_format=torch.channels_last),
    "bfloat16": lambda: perceptron().bfloat16(),
    "float64": lambda: perceptron().double(),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "no weights": lambda: nn.BatchNorm1d(3, affine=False),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_saved_network_is_loaded_as_it_was(build, tmp_path):
    net, other = build(), build()
    file = save_checkpoint(net, tmp_path / "net.safetensors", {"origin": "test"})
    state, metadata = read_checkpoint(file)
    assert (
        same(net, state)
        and metadata["origin"] == "test"
        and metadata["torch_version"] == torch.__version__
    )
    assert {"isthmus_version", "python_version", "format"} <= metadata.keys()
    loaded = load_checkpoint(file, other)
    assert loaded is other and same(loaded, net) and not loaded.training


def test_what_shares_memory_or_is_a_view_is_kept_whole(tmp_path):
    base = torch.arange(12.0)
    state = {
        "whole": base,
        "again": base,
        "part": base[3:6],
        "turned": base.view(3, 4).T,
        "spread": torch.ones(1).expand(5),
        "none": torch.zeros(0, 3),
        "also none": torch.zeros(0),
        "point": torch.tensor(2.5),
        "truth": torch.tensor(True),
    }
    assert same(load_checkpoint(save_checkpoint(state, tmp_path / "x.safetensors")), state)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    metadata = {f"key {i}": "ü" * i for i in range(8)}
    files = [save_checkpoint(Tied().state_dict(), tmp_path / "first.safetensors", metadata)]
    state = read_checkpoint(files[0])[0]
    files += [save_checkpoint(state, tmp_path / f"{i}.safetensors", metadata) for i in range(4)]
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as file:
        assert metadata.items() <= file.metadata().items()


def test_tied_weights_need_one_name_and_old_files_no_batch_counts(tmp_path):
    tied, counted = Tied(), convolutions()
    state = {n: v for n, v in tied.state_dict().items() if n != "encode.weight"}
    assert same(
        load_checkpoint(save_checkpoint(state, tmp_path / "tied.safetensors"), Tied()), tied
    )
    state = {n: v for n, v in counted.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert same(
        load_checkpoint(save_checkpoint(state, tmp_path / "old.safetensors"), convolutions()),
        counted,
    )


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_floats_of_another_precision_are_cast(kind, tmp_path):
    state = {n: v.to(kind) for n, v in perceptron().state_dict().items()}
    net = load_checkpoint(save_checkpoint(state, tmp_path / "x.safetensors"), perceptron())
    assert all(
        p.dtype == torch.float32 and torch.equal(p, state[n].float())
        for n, p in net.state_dict().items()
    )


# ---- layouts

LAYOUTS = {
    "flat": lambda s: s,
    "state_dict": lambda s: {
        "state_dict": s,
        "epoch": 3,
        "optimizer": {"state": {0: {"momentum": torch.ones(2)}}},
    },
    "model": lambda s: {"model": s, "args": {"lr": 0.1}, "rng_state": torch.get_rng_state()},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.1},
    "net": lambda s: {"net": s, "acc": 93.1},
    "weights beside a configuration": lambda s: {"model": {"name": "resnet"}, "weights": s},
    "ema only": lambda s: {"ema": s},
    "ema beside": lambda s: {"ema": {n: v + 1 for n, v in s.items()}, "network": s},
    "nested twice": lambda s: {"checkpoint": 1, "model": {"state_dict": s, "version": 2}},
    "of another name": lambda s: {"the_weights": s, "step": 7},
    "module.": lambda s: {f"module.{n}": v for n, v in s.items()},
    "_orig_mod.": lambda s: {f"_orig_mod.{n}": v for n, v in s.items()},
    "module._orig_mod.": lambda s: {
        "state_dict": {f"module._orig_mod.{n}": v for n, v in s.items()}
    },
    "_orig_mod.module.module.": lambda s: {f"_orig_mod.module.module.{n}": v for n, v in s.items()},
    "compiled inside": lambda s: {f"{n[0]}._orig_mod.{n[2:]}": v for n, v in s.items()},
    "averaged": lambda s: (
        AveragedModel(perceptron()).state_dict() | {f"module.{n}": v for n, v in s.items()}
    ),
    "parameters": lambda s: {n: nn.Parameter(v) for n, v in s.items()},
}


@pytest.mark.parametrize(
    ("trained", "averaged"),
    [("state_dict", "state_dict_ema"), ("net", "ema"), ("model", None), (None, "state_dict_ema")],
)
def test_averaged_weights_that_are_not_read_are_told_of(trained, averaged, tmp_path):
    state = perceptron().state_dict()
    held = {trained: state, averaged: {name: value + 1 for name, value in state.items()}}
    torch.save({name: value for name, value in held.items() if name}, tmp_path / "x.pth")
    (read, _), said = notices(lambda: read_checkpoint(tmp_path / "x.pth"))
    moved = 0 if trained else 1
    assert all(torch.equal(value, state[name] + moved) for name, value in read.items())
    both = trained is not None and averaged is not None
    assert len(said) == both
    assert not both or (f"{trained} is read" in said[0] and averaged in said[0])


ONLY_WITH_MODULE = {
    "model.": lambda s: {"state_dict": {f"model.{n}": v for n, v in s.items()}},
    "module.model.": lambda s: {f"module.model.{n}": v for n, v in s.items()},
    "model.module.": lambda s: {f"model.module.{n}": v for n, v in s.items()},
    "parallel inside": lambda s: {f"{n[0]}.module.{n[2:]}": v for n, v in s.items()},
    "classifier.": lambda s: {f"classifier.{n}": v for n, v in s.items()},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", [*LAYOUTS, *ONLY_WITH_MODULE])
def test_common_layouts_are_unwrapped(name, zipped, tmp_path):
    net, file = perceptron(), tmp_path / "x.pth"
    torch.save(
        (LAYOUTS | ONLY_WITH_MODULE)[name](net.state_dict()),
        file,
        _use_new_zipfile_serialization=zipped,
    )
    assert same(load_checkpoint(file, perceptron()), net)
    if name in LAYOUTS:
        assert same(load_checkpoint(file), net)


def test_prefixes_of_the_network_itself_stay(tmp_path):
    net, parallel = Wrapped(), nn.DataParallel(perceptron())
    assert same(load_checkpoint(save_checkpoint(net, tmp_path / "a.safetensors"), Wrapped()), net)
    file = save_checkpoint(parallel, tmp_path / "b.safetensors")
    assert same(load_checkpoint(file, nn.DataParallel(perceptron())), parallel)


# ---- what is refused


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def whole_network():
    return perceptron()


HARMFUL = {
    "code among weights": (
        lambda trace: {"a": torch.ones(1), "b": Harm(trace)},
        ["code in it", "mkdir", "refused"],
    ),
    "code alone": (Harm, ["code in it", "mkdir", "nothing that runs"]),
    "a network": (
        lambda trace: perceptron(),
        ["whole pickled network", "torch.nn.modules", "model.state_dict()"],
    ),
    "a network of the user": (
        lambda trace: Tied(),
        ["Tied", "nothing that runs", "model.state_dict()"],
    ),
    "arguments": (
        lambda trace: {"state_dict": {}, "a": Namespace()},
        ["argparse.Namespace", "model.state_dict()"],
    ),
    "numpy": (
        lambda trace: {"state_dict": {}, "a": np.float64(1)},
        ["numpy", "model.state_dict()"],
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", HARMFUL)
def test_a_pickle_with_code_is_refused_and_not_run(name, zipped, tmp_path):
    make, words = HARMFUL[name]
    file, trace = tmp_path / "x.pt", tmp_path / "trace"
    torch.save(make(trace), file, _use_new_zipfile_serialization=zipped)
    refused(lambda: read_checkpoint(file), str(file), "no code was run", *words)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_a_bare_pickle_is_refused_under_any_name(protocol, suffix, tmp_path):
    file, trace = tmp_path / f"x{suffix}", tmp_path / "trace"
    file.write_bytes(pickle.dumps(Harm(trace), protocol=protocol))
    refused(lambda: read_checkpoint(file), str(file), "expected")
    assert not trace.exists()


GOOD = save({"a.weight": torch.ones(4, 4), "a.bias": torch.ones(4)})
BROKEN = {
    "cut in the data": (GOOD[:-5], ["cut short or damaged", "a whole file", "download it again"]),
    "cut in the header": (GOOD[:30], ["cut short or damaged", "a whole file", "download it again"]),
    "longer than it says": (GOOD + b"00", ["cut short or damaged", "a whole file"]),
    "header too large": (b"\xff" * 8 + b"{" + b"a" * 99, ["cut short or damaged", "a whole file"]),
    "header no JSON": (
        (20).to_bytes(8, "little") + b"{nonsense nonsense..",
        ["cut short or damaged"],
    ),
    "empty": (b"", ["empty (0 bytes)", "a checkpoint file", "again"]),
    "a page": (
        b"\n <!DOCTYPE html><html><body>Quota</body></html>",
        ["a web page", "safetensors", "open the address"],
    ),
    "text": (b"404 not found", ["neither safetensors nor a torch file", "check the path"]),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid",
        ["Git LFS pointer", "git lfs pull"],
    ),
    "half a zip": (b"PK\x03\x04" + b"\0" * 99, ["cut short or damaged", "a whole file"]),
    "half a pickle": (b"\x80\x02}q\0", ["expected", "refused"]),
    "eight bytes": (b"\0" * 8, ["neither safetensors nor a torch file"]),
}


def test_a_name_that_safetensors_cannot_read_is_no_damage(tmp_path):
    file = save_checkpoint(perceptron(), tmp_path / "x.safetensors")
    named = file.rename(tmp_path / os.fsdecode(b"caf\xe9.safetensors"))
    refused(lambda: read_checkpoint(named), "not UTF-8", "rename the file")
    assert read_checkpoint(named.rename(tmp_path / "café.safetensors"))[0]


def test_a_line_break_in_a_name_leaves_the_message_one_line(tmp_path):
    refused(lambda: read_checkpoint(tmp_path / "a\nb\rc.safetensors"), r"a\nb\rc.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(name, suffix, tmp_path):
    content, words = BROKEN[name]
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    message = refused(
        lambda: read_checkpoint(file), str(file), *(words if name != "half a pickle" else words[:1])
    )
    assert len(message) < 600


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_torch_files_cut_anywhere_are_refused(zipped, share, tmp_path):
    file = tmp_path / "x.pt"
    torch.save({"a": torch.ones(5000)}, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    refused(lambda: read_checkpoint(file), str(file))


@pytest.mark.parametrize("part", ["values", "pickle"])
def test_a_flipped_bit_in_a_torch_file_is_noticed(part, tmp_path):
    file, state = tmp_path / "x.pt", {"a": torch.rand(50)}
    torch.save(state, file)
    whole = bytearray(file.read_bytes())
    held = state["a"].numpy().tobytes() if part == "values" else b"FloatStorage"
    whole[whole.index(held) + 2] ^= 1
    file.write_bytes(whole)
    refused(lambda: read_checkpoint(file), "damaged", "is not what was written", "a whole file")


@pytest.mark.parametrize("written", ["without sums", "legacy"])
def test_a_torch_file_without_sums_is_read(written, tmp_path):
    file, state = tmp_path / "x.pt", {"a": torch.rand(50)}
    torch.serialization.set_crc32_options(written == "legacy")
    try:
        torch.save(state, file, _use_new_zipfile_serialization=written != "legacy")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(file)[0]["a"], state["a"])


def test_a_script_archive_is_refused(tmp_path):
    with zipfile.ZipFile(
        tmp_path / "x.pt", "w"
    ) as archive:  # what torch.jit.save writes, as far as torch.load looks
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"x/{name}", "3\n")
    refused(
        lambda: read_checkpoint(tmp_path / "x.pt"), "TorchScript", "a state dict", "no code was run"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], ["a list", "a state dict", "model.state_dict()"]),
        ({"epoch": 3, "lr": 0.1}, ["entries epoch, lr", "a state dict", "model.state_dict()"]),
        (
            {"gen": {"w": torch.ones(1)}, "disc": {"w": torch.ones(1)}},
            ["2 sets of weights (disc, gen)", "one network"],
        ),
        ({"w": torch.ones(1), "epoch": 3}, ["'epoch'", "(int)", "dense tensors by name"]),
        ({"w": torch.eye(3).to_sparse()}, ["'w'", "sparse", "dense tensors"]),
        ({"w": torch.ones(3, device="meta")}, ["'w'", "no values", "meta", "dense tensors"]),
        ({3: torch.ones(3)}, ["an entry is 3 (int), no text", "dense tensors by name"]),
        ({}, ["which holds nothing;", "a state dict"]),
    ],
)
def test_what_is_no_state_dict_is_refused(content, words, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    refused(lambda: read_checkpoint(tmp_path / "x.pt"), "x.pt", *words)


def test_a_mapping_that_holds_itself_ends(tmp_path):
    content = {"epoch": 1}
    content["model"] = content["state_dict"] = content
    torch.save(content, tmp_path / "x.pt")
    refused(lambda: read_checkpoint(tmp_path / "x.pt"), "entries", "a state dict")


LONG = "x" * 300


@pytest.mark.parametrize("path", [f"{LONG}.pt", f"{LONG}/x.pt", f"{LONG}.safetensors.index.json"])
def test_a_name_that_no_folder_can_hold_is_refused(path, tmp_path):
    refused(lambda: read_checkpoint(tmp_path / path), LONG, "File name too long", "check")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (json.dumps({"weight_map": {"w": f"{LONG}.safetensors"}}), [LONG, "File name too long"]),
        ("[" * 100_000, ["x.safetensors.index.json", "nested too deeply", "JSON"]),
        ('{"a": ' + "9" * 5000 + "}", ["x.safetensors.index.json", "JSON"]),
    ],
    ids=["long name", "deep", "many digits"],
)
def test_an_index_made_to_harm_is_refused(index, words, tmp_path):
    (tmp_path / "x.safetensors.index.json").write_text(index)
    refused(lambda: read_checkpoint(tmp_path / "x.safetensors.index.json"), *words)


def test_missing_files_and_folders_are_named_with_what_is_near(tmp_path):
    save_checkpoint({"w": torch.ones(1)}, tmp_path / "repaired.safetensors")
    refused(
        lambda: read_checkpoint(tmp_path / "repared.safetensors"),
        "not exist",
        "did you mean repaired.safetensors",
    )
    refused(
        lambda: read_checkpoint(tmp_path),
        "a folder",
        "name the file inside it: repaired.safetensors",
    )
    refused(lambda: read_checkpoint(tmp_path / "no" / "x.pt"), "not exist", "check the spelling")


def changed(**entries):
    state = perceptron().state_dict() | {
        name.replace("_", "."): value for name, value in entries.items()
    }
    return {name: value for name, value in state.items() if value is not None}


MISFITS = {
    "missing": (
        lambda: changed(**{"2_bias": None}),
        ["lacks 1 of the keys (2.bias)", "4 keys of Sequential", "factory"],
    ),
    "extra": (
        lambda: changed(tail_bias=torch.ones(2)),
        ["has 1 others (tail.bias)", "4 keys", "factory"],
    ),
    "both": (
        lambda: {f"conv{i}.weight": torch.ones(1) for i in range(9)},
        [
            "lacks 4 of the keys (0.bias, 0.weight, 2.bias and 1 more)",
            "9 others (conv0.weight, ",
            "and 6 more)",
        ],
    ),
    "shape": (
        lambda: perceptron(5).state_dict(),
        ["2 tensors", "2.weight (5, 4) instead of (2, 4)", "classes"],
    ),
    "transposed": (
        lambda: changed(**{"0_weight": torch.ones(3, 4)}),
        ["0.weight (3, 4) instead of (4, 3)"],
    ),
    "integers": (
        lambda: changed(**{"0_bias": torch.ones(4).int()}),
        ["0.bias", "torch.int32", "another float type"],
    ),
    "truth": (
        lambda: changed(**{"0_bias": torch.ones(4).bool()}),
        ["0.bias", "torch.bool", "torch.float32"],
    ),
    "complex": (
        lambda: changed(**{"0_bias": torch.ones(4) * 1j}),
        ["0.bias", "complex", "torch.float32"],
    ),
    "nan": (
        lambda: changed(**{"2_bias": torch.tensor([1, float("nan")])}),
        ["NaN or infinite: 2.bias", "finite"],
    ),
    "infinite": (
        lambda: changed(**{"2_bias": torch.tensor([1, float("inf")])}),
        ["NaN or infinite: 2.bias", "earlier"],
    ),
    "too large": (
        lambda: changed(**{"2_bias": torch.tensor([1, 1e60], dtype=torch.float64)}),
        ["1 tensor holds numbers that torch.float32 cannot hold: 2.bias", "wider type"],
    ),
}


def test_a_variance_below_zero_is_refused(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    state = net.state_dict()
    torch.save({**state, "1.running_var": torch.tensor([1.0, -1e-3])}, tmp_path / "x.pt")
    words = ["1 variance is below zero: 1.running_var", "0 or more"]
    refused(lambda: load_checkpoint(tmp_path / "x.pt", net), *words)
    torch.save({**state, "1.running_var": torch.tensor([1.0, 0.0])}, tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt", net)[1].running_var[1] == 0


def test_a_network_without_shapes_is_refused(tmp_path):
    save_checkpoint(perceptron(), tmp_path / "x.safetensors")
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    refused(
        lambda: load_checkpoint(tmp_path / "x.safetensors", lazy),
        "0.bias, 0.weight",
        "forward pass",
    )


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named_and_nothing_is_half_loaded(name, tmp_path):
    make, words = MISFITS[name]
    torch.save(make(), tmp_path / "x.pt")
    net = perceptron().train()
    before = {n: v.clone() for n, v in net.state_dict().items()}
    refused(lambda: load_checkpoint(tmp_path / "x.pt", net), str(tmp_path / "x.pt"), *words)
    assert same(net, before) and net.training


def test_infinities_are_allowed_where_the_network_has_them_by_design(tmp_path):
    state = Tied().state_dict()
    broken = state | {"mask": -state["mask"]}
    refused(
        lambda: load_checkpoint(save_checkpoint(broken, tmp_path / "x.safetensors"), Tied()),
        "infinite: mask",
    )
    broken = state | {"seen": torch.tensor(2**40)}
    small = Tied()
    small.seen = small.seen.int()
    refused(
        lambda: load_checkpoint(save_checkpoint(broken, tmp_path / "x.safetensors"), small),
        "seen",
        "torch.int32",
    )


def test_tied_weights_that_differ_are_refused(tmp_path):
    state = Tied().state_dict() | {"decode.weight": torch.ones(4, 4)}
    file = save_checkpoint(state, tmp_path / "x.safetensors")
    refused(
        lambda: load_checkpoint(file, Tied()),
        "encode.weight and decode.weight differ",
        "Tied ties them",
    )


@pytest.mark.parametrize(
    ("content", "metadata", "words"),
    [
        ({"w": torch.eye(2).to_sparse()}, {}, ["'w'", "dense tensors"]),
        ({"w": [1.0]}, {}, ["'w'", "list", "dense tensors"]),
        ({"w": torch.ones(1)}, {"seed": 3}, ["metadata 'seed': 3", "text by name", "json.dumps"]),
    ],
)
def test_what_cannot_be_saved_is_refused_before_a_file_is_begun(content, metadata, words, tmp_path):
    refused(lambda: save_checkpoint(content, tmp_path / "x.safetensors", metadata), *words)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    file = save_checkpoint({"w": torch.ones(3)}, tmp_path / "x.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        refused(
            lambda: save_checkpoint({"w": torch.ones(50_000)}, file),
            "could not be written",
            "room on the disk",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [file] and len(load_checkpoint(file)["w"]) == 3


# ---- names of wrappers and of older versions


class Renamed(nn.Module):
    """Calls its layer by another name than it once did, and still reads the old one."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        for name in ("weight", "bias"):
            if f"{prefix}fc.{name}" in state_dict:
                state_dict[f"{prefix}head.{name}"] = state_dict.pop(f"{prefix}fc.{name}")
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def test_modules_rename_what_older_versions_of_them_wrote(tmp_path):
    old = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(4, 3)))
    new = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    torch.save(old.state_dict(), tmp_path / "old.pt")
    x = torch.rand(5, 4)
    assert torch.allclose(load_checkpoint(tmp_path / "old.pt", new)(x), old(x), atol=1e-6)
    head = nn.Linear(3, 2)
    state = {f"0.fc.{name}": value for name, value in head.state_dict().items()}
    for prefix in ("", "module."):
        torch.save({prefix + n: v.half() for n, v in state.items()}, tmp_path / "old.pt")
        net = load_checkpoint(tmp_path / "old.pt", nn.Sequential(Renamed()))
        assert torch.equal(net[0].head.weight, head.weight.half().float())
    torch.save({n: v.T if v.ndim == 2 else v for n, v in state.items()}, tmp_path / "old.pt")
    refused(lambda: load_checkpoint(tmp_path / "old.pt", nn.Sequential(Renamed())), "lacks 2")


NET = perceptron()


def under(prefix, state=None):
    state = NET.state_dict() if state is None else state
    return {prefix + name: value for name, value in state.items()}


ONE_PART = {
    "loss": (lambda: {**under("model."), "criterion.weight": torch.ones(3)}, "model."),
    "deep": (lambda: {**under("a.b."), "a.c": torch.ones(1), "d.e": torch.ones(1)}, "a.b."),
    "a copy": (
        lambda: {
            **under("module.model."),
            **under("module.attacker.model."),
            "module.normalizer.mean": torch.zeros(3, 1, 1),
            "module.normalizer.std": torch.ones(3, 1, 1),
        },
        "module.model.",
    ),
}


@pytest.mark.parametrize("name", ONE_PART)
def test_a_network_that_is_one_part_of_what_was_saved_is_cut_out_with_notice(name, tmp_path):
    make, prefix = ONE_PART[name]
    torch.save({"state_dict": make(), "epoch": 3}, tmp_path / "x.ckpt")
    with pytest.warns(Notice, match=f"x.ckpt: the network is under {prefix}, without "):
        assert same(load_checkpoint(tmp_path / "x.ckpt", perceptron()), NET)


class WithAverage(nn.Module):
    """Keeps an average of its weights inside itself."""

    def __init__(self):
        super().__init__()
        self.add_module("0", nn.Flatten())
        self.add_module("1", nn.Linear(4, 3))
        self.ema = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_an_average_inside_the_network_is_part_of_it(prefix, tmp_path):
    net = WithAverage()
    torch.save({**under(prefix, net.state_dict()), "x.y": torch.ones(1)}, tmp_path / "x.pt")
    if prefix:
        with pytest.warns(Notice, match=f"the network is under {prefix}, without x.y"):
            assert same(load_checkpoint(tmp_path / "x.pt", WithAverage()), net)
    torch.save(under(prefix, net.state_dict()), tmp_path / "x.pt")
    assert same(load_checkpoint(tmp_path / "x.pt", WithAverage()), net)


def test_a_network_that_is_there_twice_with_the_same_weights_is_loaded(tmp_path):
    torch.save({**under(""), **under("module.")}, tmp_path / "x.pt")
    assert same(load_checkpoint(tmp_path / "x.pt", perceptron()), NET)


def test_counters_of_profilers_are_left_out(tmp_path):
    counters = {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}
    torch.save({**NET.state_dict(), **counters}, tmp_path / "x.pt")
    assert same(load_checkpoint(tmp_path / "x.pt", perceptron()), NET)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: {**under("model."), "normalizer.mean": torch.ones(3) / 2},
            ["under model.", "normalized outside it (normalizer.mean)", "in front"],
        ),
        (
            lambda: {
                **under("student."),
                **under("teacher.", changed(**{"2_bias": torch.ones(2)})),
            },
            ["holds the network 2 times (student., teacher.)", "one network"],
        ),
        (
            lambda: {**under(""), **under("module.", changed(**{"2_bias": torch.ones(2)}))},
            ["holds the network 2 times (module., without a prefix)", "one network"],
        ),
        (
            lambda: {**under("net."), **under("net.ema.", changed(**{"2_bias": torch.ones(2)}))},
            ["holds the network 2 times (net., net.ema.)", "one network"],
        ),
        (
            lambda: {**under("model."), "model.3.weight": torch.ones(1), "x": torch.ones(1)},
            ["4 of those it lacks are there under model.", "factory"],
        ),
    ],
)
def test_parts_that_mean_something_else_by_themselves_are_refused(make, words, tmp_path):
    torch.save(make(), tmp_path / "x.pt")
    refused(lambda: load_checkpoint(tmp_path / "x.pt", perceptron()), *words)


def test_a_network_without_memory_is_refused(tmp_path):
    save_checkpoint(perceptron(), tmp_path / "x.safetensors")
    with torch.device("meta"):
        net = perceptron()
    refused(lambda: load_checkpoint(tmp_path / "x.safetensors", net), "on the meta device")


def test_what_is_no_module_is_refused_where_it_would_be_saved(tmp_path):
    small = Compressed(perceptron(), {})
    file = tmp_path / "x.safetensors"
    refused(lambda: save_checkpoint(small, file), "a Compressed to save", ".model")
    assert not file.exists()
