"""Packed files that were damaged or made to harm: each is refused in one line, before memory is
taken for what it claims.
"""

import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.refusals import refused
from support.rows import samples
from torch import nn

from isthmus.compression import Compressed, baked, prune, quantize
from isthmus.compression.packing import pack_codes
from isthmus.compression.quantization.rounded import rounded_in
from isthmus.models import small_cnn
from isthmus.models.checkpoint.reading import COMPRESSED
from isthmus.runs.identity import sha256_of

WEIGHT = "features.1.0.weight"
"""A layer that is masked, and on a grid, in the files here."""

KINDS = ("mask", "grid", "sparse", "zeros")
"""How it is packed: by values and places, codes, codes and places, and values and places again, of
zeros that nothing holds.
"""


def make():
    return small_cnn(3, 1, 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    torch.manual_seed(0)
    net = make()
    few = baked(prune(net, samples(), 0.05).model)
    small = {
        "mask": prune(net, samples(), 0.5),
        "grid": quantize(net, samples(), 4),
        "sparse": quantize(few, samples(), 4),
        "zeros": quantize(few, samples(), 4, layers=["features.3.0"]),
    }
    with pytest.MonkeyPatch.context() as patched:  # as if the layers here were large
        patched.setattr("isthmus.compression.packing._NAMED", 0)
        return {kind: one.save(folder / f"{kind}.safetensors") for kind, one in small.items()}


def opened(file):
    """The description and the tensors of a packed file."""
    with safe_open(file, framework="pt") as held:
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
        return json.loads(held.metadata()[COMPRESSED]), tensors


def refusal(file, described, tensors, *words):
    """How such a file is refused, without growing the process much."""
    text = described if isinstance(described, str) else json.dumps(described)
    other = file.with_name("other.safetensors")
    save_file(tensors, other, {COMPRESSED: text})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(lambda: Compressed.load(other, make()), "other.safetensors", *words)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024  # KiB
    return message


ODD = [None, True, -1, 0, 0.5, "x", [], {}, [[]], {"": None}, [1, "a"], 10**12, 2**70]


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 10**5, '"text"', "7", "9" * 5000])
def test_a_description_that_is_none_is_refused(text, files):
    _, tensors = opened(files["grid"])
    refusal(files["grid"], text, tensors, "malformed")


@pytest.mark.parametrize("entry", ["packed", "record", "sha256"])
def test_a_description_without_an_entry_or_with_an_odd_one_is_refused(entry, files):
    described, tensors = opened(files["grid"])
    refusal(files["grid"], {k: v for k, v in described.items() if k != entry}, tensors, entry)
    for odd in ODD:
        if entry == "record" and isinstance(odd, dict):
            continue
        refusal(files["grid"], {**described, entry: odd}, tensors)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *[("mask", key) for key in ("kind", "shape", "parts")],
        *[("grid", key) for key in ("kind", "shape", "parts", "top", "step")],
        *[("sparse", key) for key in ("kind", "shape", "parts", "top", "step")],
        *[("zeros", key) for key in ("kind", "shape", "parts")],
    ],
)
def test_a_packed_tensor_that_is_described_oddly_is_refused(kind, key, files):
    described, tensors = opened(files[kind])
    entry = described["packed"][WEIGHT]
    without = {name: value for name, value in entry.items() if name != key}
    for odd in [without, *({**entry, key: odd} for odd in ODD), *ODD]:
        changed = {**described, "packed": {**described["packed"], WEIGHT: odd}}
        refusal(files[kind], changed, tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_no_memory_is_taken_for_a_shape_that_is_no_layers(kind, files):
    described, tensors = opened(files[kind])
    for shape in ([10**12], [10**6, 10**6, 1, 1], [2**40] * 4, [4, 4, 3], [4, 4, 0, 3]):
        described["packed"][WEIGHT]["shape"] = shape
        refusal(files[kind], described, tensors, WEIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_are_missing_or_odd_are_refused(kind, files):
    described, tensors = opened(files[kind])
    for part in [name for name in tensors if name.startswith(f"{WEIGHT}//")]:
        left = {name: value for name, value in tensors.items() if name != part}
        refusal(files[kind], described, left, WEIGHT)
        value = tensors[part]
        odds = [value.to(torch.int32), value.float().repeat(3), value[..., None], torch.zeros(0)]
        for odd in odds:
            refusal(files[kind], described, {**left, part: odd})
    refusal(files[kind], described, {**tensors, WEIGHT: torch.zeros(4, 4, 3, 3)}, "both")
    refusal(files[kind], described, {**tensors, "more": torch.zeros(1)}, "more")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_are_named_twice_or_not_at_all_are_refused(kind, files):
    described, tensors = opened(files[kind])
    entry = described["packed"][WEIGHT]
    one, *others = entry["parts"]
    for parts in (
        *([], [one], [one, one], [one, one, *others], [one, *others, "more"], ["", *others]),
        *([one + "//", *others], others, [*others, others[0]]),
    ):
        changed = {**described["packed"], WEIGHT: {**entry, "parts": parts}}
        refusal(files[kind], {**described, "packed": changed}, tensors)


def test_places_and_codes_that_do_not_fit_are_refused(files):
    described, tensors = opened(files["sparse"])
    gaps, codes = (tensors[f"{WEIGHT}//{part}"] for part in ("gaps", "codes"))
    for part, odd in (
        ("gaps", gaps[:0]),
        ("gaps", torch.cat([gaps, gaps])),
        ("gaps", torch.full_like(gaps, 254)),  # beyond the last weight
        ("codes", codes[:-1]),
        ("codes", torch.cat([codes, codes])),
        ("codes", torch.full_like(codes, 255)),  # 15, where 14 levels are other than 0
    ):
        refusal(files["sparse"], described, {**tensors, f"{WEIGHT}//{part}": odd}, WEIGHT)


def test_files_whose_zeros_have_codes_are_read_as_before(files):
    described, tensors = opened(files["sparse"])
    loaded = Compressed.load(files["sparse"], make())
    assert set(described["packed"][WEIGHT]["parts"]) == {"codes", "gaps", "scale"}
    rounded, original = rounded_in(loaded.model)[WEIGHT]
    del tensors[f"{WEIGHT}//gaps"]
    levels = rounded.fitted(original).levels
    tensors[f"{WEIGHT}//codes"] = pack_codes(levels.long() + rounded.grid.top, 15)
    described["packed"][WEIGHT]["parts"] = ["codes", "scale"]
    older = files["sparse"].with_name("older.safetensors")
    save_file(tensors, older, {COMPRESSED: json.dumps(described)})
    again = Compressed.load(older, make())
    assert torch.equal(again.model(samples().x), loaded.model(samples().x))


def test_what_is_packed_has_to_be_a_weight(files):
    for kind in KINDS:
        described, tensors = opened(files[kind])
        entry = described["packed"].pop(WEIGHT)
        for name in ("features.0.1.running_mean", "", "nothing.weight", "features"):
            changed = {**described, "packed": {**described["packed"], name: entry}}
            refusal(files[kind], changed, tensors, "no weight")


class Normalized(nn.Module):
    """A network with a buffer that is in no file."""

    def __init__(self):
        super().__init__()
        self.net = make()
        self.register_buffer("mean", torch.full((1,), 0.5), persistent=False)

    def forward(self, x):
        return self.net(x - self.mean)


@pytest.mark.parametrize("structure", ["weights", "channels"])
def test_buffers_that_are_in_no_file_are_those_of_the_network(structure, tmp_path):
    torch.manual_seed(0)
    small = prune(Normalized(), samples(), 0.5, structure)
    loaded = Compressed.load(small.save(tmp_path / "small.safetensors"), Normalized())
    x = samples().x
    assert torch.equal(loaded.model(x), small.model(x))


def whole(described, tensors):
    """The file of a network as it is, with the hash of its tensors."""
    hashed = sha256_of(*(tensors[name] for name in sorted(tensors)))
    return {**described, "packed": {}, "sha256": hashed}


def test_a_hash_that_fits_excuses_no_odd_tensor(files):
    described, _ = opened(files["grid"])
    state = baked(Compressed.load(files["grid"], make()).model).state_dict()
    name = "features.0.1.running_var"
    for odd, words in (
        (torch.full((4,), torch.nan), "NaN"),
        (torch.full((4,), -1.0), "below zero"),
        (torch.ones(4, dtype=torch.float64), "float64"),
        (torch.ones(4, dtype=torch.complex64), "complex64"),
        (torch.ones(0), "(0,)"),
        (torch.ones(5), "(5,)"),
    ):
        tensors = {**state, name: odd}
        refusal(files["grid"], whole(described, tensors), tensors, name, words)
    described, tensors = opened(files["grid"])
    scale = {f"{WEIGHT}//scale": torch.tensor(torch.inf)}
    refusal(files["grid"], described, {**tensors, **scale}, WEIGHT, "NaN or infinite")


def test_levels_that_rounding_would_change_are_refused(files):
    """The network rounds at each pass, so it would not compute with what the hash is of."""
    file = quantize(make(), samples(), 8).save(files["grid"].with_name("eight.safetensors"))
    described, tensors = opened(file)
    state = baked(Compressed.load(file, make()).model).state_dict()
    level = torch.arange(144) % 51
    tensors[f"{WEIGHT}//codes"] = (level + 127).byte()
    state[WEIGHT] = (level * tensors[f"{WEIGHT}//scale"]).view(4, 4, 3, 3)
    described["sha256"] = whole(described, state)["sha256"]
    refusal(file, described, tensors, "hash")


def test_a_file_makes_layers_narrower_and_no_wider(tmp_path):
    def layers(width):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Linear(width, 3))

    small = prune(layers(12), samples(), 0.5)
    file = small.save(tmp_path / "small.safetensors")
    refused(lambda: Compressed.load(file, layers(11)), "small.safetensors", "(12, 36)")
    wider = Compressed.load(file, layers(13)).model
    assert wider[1].out_features == 12 and torch.equal(wider(samples().x), small.model(samples().x))


class Twice(nn.Module):
    """A network one of whose layers stands at two places."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(36, 40), nn.Linear(40, 40)
        self.again = self.middle
        self.last = nn.Linear(40, 3)

    def forward(self, x):
        hidden = self.middle(self.first(x.flatten(1)).relu()).relu()
        return self.last(self.again(hidden).relu())


@pytest.mark.parametrize("how", ["weights", "channels", "grid"])
def test_what_stands_at_two_places_is_in_the_file_once(how, tmp_path):
    torch.manual_seed(0)
    net, data = Twice(), samples()
    on_grid = how == "grid"
    small = quantize(net, data, 4, layers="all") if on_grid else prune(net, data, 0.5, how)
    file = small.save(tmp_path / "small.safetensors")
    assert not any(name.startswith("again") for name in opened(file)[1])
    loaded = Compressed.load(file, Twice())
    assert loaded.model.again is loaded.model.middle
    assert torch.equal(loaded.model(data.x), small.model(data.x))


@pytest.mark.parametrize(
    "record",
    [
        *({1: 2, "b": 3}, {(1, 2): 2}, {"a": {1: 2, "b": 3}}, {"a": object()}, {"a": {1}}),
        *({"a": float("nan")}, {"a": "\udc80"}, None, [1]),
    ],
)
def test_a_record_that_is_no_json_is_refused(record, tmp_path):
    small = Compressed(prune(make(), samples(), 0.5).model, record)
    refused(lambda: small.save(tmp_path / "small.safetensors"), "record", "JSON")
    assert not list(tmp_path.iterdir())


def test_paths_that_name_no_file_are_refused(files, tmp_path):
    refused(lambda: Compressed.load(tmp_path, make()), "a folder")
    small = Compressed.load(files["grid"], make())
    refused(lambda: small.save(tmp_path / "a\0b"), "could not be written", "zero byte")
