"""What a detector is bound to, and its file: whatever a file holds, it is a detector or refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.refusals import refused
from torch import nn

from isthmus import Data
from isthmus.detection import ManifoldDetector, scores
from isthmus.detection.held import metadata_of
from isthmus.detection.probes import PROBES
from isthmus.models.preparation import Preparation, prepared


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Data(torch.rand(n, 1, 6, 6, generator=generator), torch.arange(n) % 3, 3)


def network(activation=nn.ReLU, preparation=None):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(24, 8), activation(), nn.Linear(8, 3)),
    )
    return prepared(net.eval(), preparation or Preparation())


def fitted(name="lle", layer=("3", "5"), net=None, **options):
    net = net or (network() if layer else None)
    detector = ManifoldDetector(name, 5, layer, **options).fit(images(60), net)
    return detector.calibrate(images(60, seed=1))


OTHERS = {
    "activation": lambda: network(nn.Tanh),
    "normalization": lambda: network(preparation=Preparation((0.5,), (0.25,))),
    "size": lambda: network(preparation=Preparation(size=(8, 8))),
}


@pytest.mark.parametrize("layer", [None, ("3", "5")])
@pytest.mark.parametrize("other", OTHERS)
def test_a_detector_is_bound_to_the_way_its_network_computes(other, layer, tmp_path):
    """All of these have the weights of the network that it was fitted with."""
    path = fitted(layer=layer, net=network()).save(tmp_path / "detector.safetensors")
    refused(lambda: ManifoldDetector.load(path, OTHERS[other]()), "with the weights of")
    ManifoldDetector.load(path, network())


def test_a_network_on_which_the_images_do_not_run_is_refused(tmp_path):
    def flat(preparation):
        torch.manual_seed(0)
        return prepared(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), preparation)

    path = fitted(layer="1", net=flat(Preparation())).save(tmp_path / "detector.safetensors")
    larger = flat(Preparation(size=(8, 8)))
    refused(lambda: ManifoldDetector.load(path, larger), "that the network cannot read")


def test_a_network_that_was_changed_in_place_is_refused():
    def trained(net):
        with torch.no_grad():
            net[0].weight.mul_(1.5)

    def replaced(net):
        net[1] = nn.Tanh()

    def normalized(net):
        prepared(net, Preparation((0.5,), (0.25,)))

    for change in (trained, replaced, normalized):
        detector = fitted()
        x = images(5, seed=2).x
        before = detector.score(x)
        assert torch.equal(detector.score(x), before)
        change(detector.model)
        for ask in (detector.score, detector.flags, detector.answers):
            refused(lambda ask=ask, x=x: ask(x), "network")
    detector = fitted()
    detector.model[0].weight.data.mul_(1.5)  # which no counter shows
    refused(lambda: detector.calibrate(images(60, seed=3)), "network with weights")


def test_a_hook_that_takes_the_place_of_another_is_noticed():
    net = network()
    halved = net.register_forward_pre_hook(lambda _, args: (args[0] / 2,))
    detector = fitted(net=net)
    x = images(5, seed=2).x
    before = detector.score(x)
    halved.remove()
    again = net.register_forward_pre_hook(lambda _, args: (args[0] / 2,))
    assert torch.equal(detector.score(x), before)
    again.remove()
    net.register_forward_pre_hook(lambda _, args: (args[0] / 4,))
    refused(lambda: detector.score(x), "with the weights of")


def test_the_file_holds_some_reference_images_where_there_is_a_network(tmp_path):
    for layer, count in ((None, 0), ("3", PROBES)):
        tensors = opened(fitted(layer=layer).save(tmp_path / f"{layer}.safetensors")).tensors
        held = tensors.get("probe_images", torch.empty(0))
        assert len(held) == count and torch.equal(held, images(60).x[:count].view_as(held))


def opened(path):
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
        return SimpleNamespace(tensors=tensors, metadata=dict(file.metadata()))


def test_one_changed_value_anywhere_is_damage(tmp_path):
    path = fitted().save(tmp_path / "detector.safetensors")
    whole = opened(path)
    for name, tensor in whole.tensors.items():
        changed = tensor.clone()
        changed.view(-1)[:1] += 1
        tensors = {**whole.tensors, name: changed}
        save_file(tensors, tmp_path / "changed.safetensors", whole.metadata)
        message = refused(lambda: ManifoldDetector.load(tmp_path / "changed.safetensors"))
        assert message.count("got ") == 1 and "changed.safetensors" in message, name
    record = json.loads(whole.metadata["detector"])
    record["threshold"]["value"] += 1
    metadata = {**whole.metadata, "detector": json.dumps(record)}
    save_file(whole.tensors, tmp_path / "changed.safetensors", metadata)
    refused(lambda: ManifoldDetector.load(tmp_path / "changed.safetensors"), "SHA-256")


WORDS = ("[]", '"x"', "null", "5", "{}", "", "[" * 10**5, '{"a": NaN}')
RECORDS = {
    "layers": ([1, 2], "abc", None, [""], ["3", "3"], ["3"], []),
    "scales": ([], [0.0], [-1.0, 1.0], [1.0], ["a", "b"], {}, None, [1.0] * 3),
    "threshold": ({}, 5, {"value": "x"}, []),
    "neighbors": (0, -1, 10**6, 10**30, 5.5, "5", None, [5], True, 4),
    "score": ("kde", "nothing", 5, None, "mahalanobis", "inconsistency"),
    "index": ("nothing", 5, None),
    "shape": ([1, 6], [1, 6, 7], "abc", [1, 6, -6], None),
    "network": ("", "abc", None, 5),
    "reference": ("", 5, None),
    "reference samples": (0, 59, "60", None),
    "more": (1,),
}


def forged(path, record, tensors):
    """Write a file whose hash is right, whatever it holds."""
    save_file(tensors, path, metadata_of(record, tensors))
    return path


@pytest.mark.parametrize("key", RECORDS)
def test_records_that_were_made_up_are_refused(key, tmp_path):
    whole = opened(fitted().save(tmp_path / "detector.safetensors"))
    record = json.loads(whole.metadata["detector"])
    for value in RECORDS[key]:
        path = forged(tmp_path / "forged.safetensors", {**record, key: value}, whole.tensors)
        message = refused(lambda path=path: ManifoldDetector.load(path))
        assert message.count("got ") == 1 and message.count("\n") == 0, value
    if key in record:
        del record[key]
        path = forged(tmp_path / "forged.safetensors", record, whole.tensors)
        refused(lambda: ManifoldDetector.load(path), "forged")


def test_metadata_that_are_no_record_are_refused(tmp_path):
    whole = opened(fitted().save(tmp_path / "detector.safetensors"))
    path = tmp_path / "odd.safetensors"
    for text in WORDS:
        save_file(whole.tensors, path, {**whole.metadata, "detector": text})
        refused(lambda: ManifoldDetector.load(path), "no detector")
    older = {name: text for name, text in whole.metadata.items() if name != "sha256"}
    save_file(whole.tensors, path, older)
    refused(lambda: ManifoldDetector.load(path), "older isthmus")


SOUND = {
    ("probe.logits", "wider"),  # another number of classes
    *((f"part{i}.means", "twice") for i in range(2)),
    *((f"part{i}.neighbors", "another type") for i in range(2)),
}
"""Changes that leave a detector, if another one."""


@pytest.mark.parametrize("name", scores())
def test_tensors_that_were_made_up_are_refused(name, tmp_path):
    """Each tensor in turn is something else, under a right hash."""
    whole = opened(fitted(name).save(tmp_path / "detector.safetensors"))
    record = json.loads(whole.metadata["detector"])
    for key, tensor in whole.tensors.items():
        for what, odd in changes(tensor):
            if (key, what) in SOUND:
                continue
            tensors = {**whole.tensors, key: odd}
            path = forged(tmp_path / "forged.safetensors", record, tensors)
            message = refused(lambda path=path: ManifoldDetector.load(path))
            assert "Error" not in message, (key, what)
        tensors = {name: tensor for name, tensor in whole.tensors.items() if name != key}
        if key != "probe.logits":  # which not every network has
            path = forged(tmp_path / "forged.safetensors", record, tensors)
            refused(lambda path=path: ManifoldDetector.load(path))


def changes(tensor):
    yield "one dimension", torch.zeros(7, dtype=tensor.dtype)
    yield "five dimensions", torch.zeros(1, 1, 1, 1, 1, dtype=tensor.dtype)
    yield "nothing", torch.zeros(0, dtype=tensor.dtype)
    yield "another type", tensor.to(torch.int16)
    if tensor.ndim:
        yield "twice", torch.cat([tensor, tensor])
        yield "wider", torch.cat([tensor, tensor], -1)
    if tensor.is_floating_point() and tensor.ndim != 4:
        yield "NaN", tensor * torch.nan
        yield "infinite", tensor + torch.inf


def test_zeroed_digests_of_the_calibration_samples_are_refused(tmp_path):
    """With them the calibration samples themselves passed as evaluation samples."""
    path = fitted().save(tmp_path / "detector.safetensors")
    whole = opened(path)
    refused(lambda: ManifoldDetector.load(path).check_apart(images(60, seed=1)), "calibration ones")
    zeroed = {**whole.tensors, "calibration_images": torch.zeros(60, 16, dtype=torch.uint8)}
    save_file(zeroed, tmp_path / "zeroed.safetensors", whole.metadata)
    refused(lambda: ManifoldDetector.load(tmp_path / "zeroed.safetensors"), "damaged")


def test_settings_of_numpy_are_saved(tmp_path):
    detector = ManifoldDetector("knn", np.int64(5)).fit(images(60))
    detector.calibrate(images(60, seed=1), np.float32(0.1))
    again = ManifoldDetector.load(detector.save(tmp_path / "detector.safetensors"))
    assert again.neighbors == 5 and again.threshold == detector.threshold


def test_the_sign_of_a_zero_makes_no_other_image():
    x = images(60).x
    x[:, 0, 0, 0] = 0.0
    mirrored = x.clone()
    mirrored[:, 0, 0, 0] = -0.0
    detector = ManifoldDetector("knn", 5).fit((x, images(60).y))
    refused(lambda: detector.calibrate((mirrored, images(60).y)), "60 of 60")


def test_a_tied_module_has_both_of_its_names():
    net = network()
    net[5] = net[1]
    assert "5" not in dict(net.named_modules())
    assert ManifoldDetector("knn", 5, "5").fit(images(60), net).score(images(4).x).shape == (4,)
