"""Networks of libraries by name: the network, the names of its weights, and how images reach it."""

import json

import pytest
import torch
from support.libraries import library
from support.noticed import notices
from support.refusals import refused
from torch import nn
from torch.nn import functional as F

from isthmus import Accuracy, Bezier, Data, Linf, fit, load_checkpoint, save_checkpoint
from isthmus.attacks import PGD
from isthmus.certification import Interval
from isthmus.models import model_factory, permuted_copy
from isthmus.models.preparation import Preparation, parse_normalization, prepared
from isthmus.models.zoo.layers import Normalize
from isthmus.runs.notices import Notice

X = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3
IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
TIMM = ("test_resnet", "test_efficientnet", "test_convnext", "test_nfnet", "test_vit")


def channels(values):
    return values.reshape(1, -1, 1, 1)


@pytest.fixture(autouse=True)
def no_notices(recwarn):
    """Notices of what a configuration says are no failures."""


def test_a_library_that_cannot_be_imported_skips_a_test_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator nms is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pytest.skip.Exception, match="imported: operator nms is missing"):
        library("broken_library")


# ---- timm


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_network_has_its_own_names_and_gets_what_its_configuration_says(name):
    timm = library("timm")
    net = model_factory(f"timm:{name}#classes=3;resize=32")().eval()
    options = {"img_size": 32} if name == "test_vit" else {}
    plain = timm.create_model(name, num_classes=3, **options).eval()
    assert list(net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(net.state_dict())
    mean, std = (torch.tensor(plain.pretrained_cfg[key]) for key in ("mean", "std"))
    assert torch.allclose(net(X), plain((X - channels(mean)) / channels(std)), atol=1e-5)


def test_a_network_of_one_size_gets_images_of_that_size():
    library("timm")
    net = model_factory("timm:test_vit")().eval()
    larger = F.interpolate(X, (160, 160), mode="bilinear", antialias=True)
    assert net(X).shape == (6, 1000)
    assert torch.allclose(net(X), net(larger), atol=1e-6)


def test_arguments_and_channels_reach_timm():
    library("timm")
    left_out = "the normalization of its configuration, for 3 channels, was not taken"
    with pytest.warns(Notice, match=f"images as they are, in .0, 1.; {left_out}"):
        net = model_factory("timm:test_resnet,in_chans=1#classes=3")()
    assert net.eval()(X[:, :1]).shape == (6, 3)  # statistics of colors are not used for gray
    assert not net._forward_pre_hooks
    for spec in ("timm:test_resnet", "timm:test_resnet,in_chans=1#normalize=0.5,0.25"):
        _, heard = notices(model_factory(spec))
        assert heard and not any("not taken" in line for line in heard)


def test_other_channels_and_classes_are_refused_with_the_words_that_set_them(tmp_path):
    library("timm")
    gray = model_factory("timm:test_resnet,in_chans=1#classes=3")()
    colors = Data(X, torch.arange(6) % 3, 3)
    refused(lambda: Accuracy(colors)(gray), "cannot read", "timm:NAME,in_chans=1")
    five = model_factory("timm:test_resnet#classes=5")()
    refused(lambda: Accuracy(colors)(five), "outputs of shape", "--classes 3")
    file = save_checkpoint(five, tmp_path / "five.safetensors")
    refused(lambda: load_checkpoint(file, gray), "another shape", "--classes", "in_chans=1")


def test_a_network_of_timm_goes_the_whole_way(tmp_path):
    library("timm")
    net = model_factory("timm:test_convnext#classes=3")()
    data = Data(X, Y, 3)
    copy = permuted_copy(net, data).model
    assert torch.allclose(copy.eval()(X), net.eval()(X), atol=1e-5)
    curve = Bezier(net, copy)
    fit(curve, data, steps=1, lr=0.01)
    point = curve.export(0.5)
    moved = PGD(Linf(0.1), steps=1)(point, X, Y)
    assert float((moved - X).abs().max()) <= 0.1 + 1e-6
    save_checkpoint(point, tmp_path / "a.safetensors")
    fresh = model_factory("timm:test_convnext#classes=3")()
    again = load_checkpoint(tmp_path / "a.safetensors", fresh)
    assert torch.equal(again(X), point(X))


# ---- torchvision


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_a_torchvision_network_has_its_own_names(name):
    vision = library("torchvision").models
    net = model_factory(f"torchvision:{name}#classes=3")().eval()
    options = {"init_weights": False} if name == "googlenet" else {}
    plain = vision.get_model(name, weights=None, num_classes=3, **options)
    plain.load_state_dict(net.state_dict())
    x = F.interpolate(X, (64, 64))
    mean, std = IMAGENET
    assert torch.allclose(net(x), plain.eval()((x - channels(mean)) / channels(std)), atol=1e-4)


def test_heads_for_training_alone_are_left_out_in_training():
    library("torchvision")
    net = model_factory("torchvision:googlenet#classes=3")().train()
    assert net(F.interpolate(X, (64, 64))).shape == (6, 3)


# ---- Hugging Face


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small ViT as save_pretrained writes it, in several files, with the configuration of its
    images; and the network.
    """
    transformers = library("transformers")
    place = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    images = {"intermediate_size": 32, "image_size": 32, "patch_size": 8, "num_labels": 3}
    torch.manual_seed(0)
    net = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, **images)).eval()
    net.save_pretrained(place, max_shard_size="20KB")
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
    (place / "preprocessor_config.json").write_text(json.dumps(statistics))
    return place, net


def test_a_checkpoint_in_parts_is_read_into_the_network_of_its_folder(folder):
    place, plain = folder
    assert len(list(place.glob("*.safetensors"))) > 1
    net = load_checkpoint(place / "model.safetensors.index.json", model_factory(f"hf:{place}")())
    assert torch.allclose(net(X), plain((X - 0.5) / 0.25).logits, atol=1e-6)


def test_names_in_files_stay_those_of_the_input(folder, tmp_path):
    place, _ = folder
    index = json.loads((place / "model.safetensors.index.json").read_text())["weight_map"]
    net = load_checkpoint(place / "model.safetensors.index.json", model_factory(f"hf:{place}")())
    moved = Bezier(net, permuted_copy(net, Data(X, Y, 3)).model).export(0.5)
    save_checkpoint(moved, tmp_path / "out.safetensors")
    assert load_checkpoint(tmp_path / "out.safetensors").keys() == index.keys()


def test_classes_and_normalization_may_be_others_than_the_configuration_says(folder):
    place, _ = folder
    net = model_factory(f"hf:{place}#classes=7;normalize=none")().eval()
    assert net(X).shape == (6, 7) and float(net(X - 5).abs().max()) > 0


def test_a_timm_configuration_is_built_by_timm(tmp_path):
    library("timm")
    images = {"mean": [0.1] * 3, "std": [0.2] * 3}
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": images}
    (tmp_path / "config.json").write_text(json.dumps(config))
    net = model_factory(f"hf:{tmp_path}")()
    (hook,) = net._forward_pre_hooks.values()
    assert hook == Preparation((0.1,) * 3, (0.2,) * 3) and net.num_classes == 3


VIT = {
    "model_type": "vit",
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 16, "image_size": 8, "patch_size": 4, "num_labels": 3},
}
TIMM_LAYOUT = {"architecture": "test_resnet", "num_classes": 3}


def nested(depth):
    return {"a": nested(depth - 1)} if depth else {}


def built_from(place, config=VIT, images=None, words=""):
    """The network of a folder with these two files: text as it is, anything else as JSON."""
    for name, held in (("config", config), ("preprocessor_config", images)):
        if held is not None:
            text = held if isinstance(held, str) else json.dumps(held)
            (place / f"{name}.json").write_text(text)
    return model_factory(f"hf:{place}{words}")()


def normalization(net):
    hooks = [hook for hook in net._forward_pre_hooks.values() if isinstance(hook, Preparation)]
    return next(((hook.mean, hook.std) for hook in hooks), (None, None))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "vit", "auto_map": {"AutoModel": "evil.py"}}, ["code", "never run"]),
        ({**VIT, "vision_config": {"auto_map": {"AutoModel": "evil.M"}}}, ["code", "never run"]),
        ({**VIT, "attn_implementation": "org/name"}, ["'org/name', code to", "never run", "sdpa"]),
        ({**VIT, "_attn_implementation": {"a": "org/name"}}, ["'org/name', code to download"]),
        ({**VIT, "b": [{"_attn_implementation": "org/name@main:f"}]}, ["'org/name@main:f', code"]),
        ({**VIT, "attn_implementation": {"a": {"": "org/name"}}}, ["'org/name', code to"]),
        *(
            ({**VIT, name: "org/name"}, [f"where {name} is 'org/name', code to download"])
            for name in (
                "_attn_implementation_internal",
                "experts_implementation",
                "_experts_implementation",
                "_experts_implementation_internal",
            )
        ),
        ({"model_type": "no-such-thing"}, ["cannot be built"]),
        ({"model_type": 5}, ["config.json of", "model_type is 5", "a text"]),
        ({}, ["without model_type", "architecture, of timm"]),
        ({"architecture": None}, ["without model_type"]),
        ({**VIT, "image_size": "8"}, ["cannot be built", "'image_size': ", "'8'"]),
        ({**VIT, "image_size": 0}, ["image_size is 0", "1 or more"]),
        ({**VIT, "image_size": [8, 8, 8]}, ["image_size is [8, 8, 8]", "two of them"]),
        ({**VIT, "id2label": {}, "num_labels": 0}, ["0 classes"]),
        ({**VIT, "more": nested(900)}, ["nested more than 20 deep"]),
        ("[" * 100_000, ["nested too deeply", "download it again"]),
        ("{", ["config.json", "readable JSON", "copy or download it again"]),
        ([], ["a table"]),
        (None, ["without config.json"]),
        ({**TIMM_LAYOUT, "model_args": [1]}, ["where model_args is [1]", "a table"]),
        ({**TIMM_LAYOUT, "pretrained_cfg": [1]}, ["where pretrained_cfg is [1]", "a table"]),
        ({**TIMM_LAYOUT, "pretrained_cfg": {"mean": 0.5}}, ["mean is 0.5", "a list of numbers"]),
        ({**TIMM_LAYOUT, "pretrained_cfg": {"mean": [0.5]}}, ["mean and no std", "--normalize"]),
        ({**TIMM_LAYOUT, "num_classes": "3"}, ["num_classes is '3'", "1 or more"]),
        ({**TIMM_LAYOUT, "num_classes": 0}, ["num_classes is 0", "1 or more"]),
        ({"architecture": ["a"]}, ["architecture is ['a']", "a text"]),
        ({**TIMM_LAYOUT, "architecture": "nope"}, ["config.json of", "'nope', unknown to timm"]),
        *(
            ({**TIMM_LAYOUT, "model_args": {name: value}}, [f"with {name}", "the architecture"])
            for name, value in {
                "pretrained": True,
                "pretrained_cfg": "x",
                "pretrained_cfg_overlay": {"file": "weights.pt"},
                "checkpoint_path": "weights.pt",
                "cache_dir": "somewhere",
                "features_only": True,
            }.items()
        ),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value)[:60],
)
def test_what_cannot_be_built_from_a_configuration_is_refused(config, words, tmp_path):
    library("transformers")
    library("timm")
    refused(lambda: built_from(tmp_path, config), *words)


def test_null_in_a_configuration_says_nothing(tmp_path):
    library("timm")
    plain = normalization(model_factory("timm:test_resnet")())
    net = built_from(tmp_path, {**TIMM_LAYOUT, "model_args": None, "pretrained_cfg": None})
    assert net.num_classes == 3 and normalization(net) == plain


def test_an_attention_of_transformers_itself_is_no_code(tmp_path):
    library("transformers")
    net = built_from(tmp_path, {**VIT, "_attn_implementation": "eager"})
    assert net.config._attn_implementation == "eager"


@pytest.mark.parametrize("chosen", [True, False])
def test_whether_transformers_chose_an_attention_is_no_code(chosen, tmp_path):
    """Configurations of its releases 4.48 to 4.51 say so."""
    library("transformers")
    built_from(tmp_path, {**VIT, "_attn_implementation_autoset": chosen})


HALVES = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    "images",
    [
        HALVES,
        {**HALVES, "do_rescale": True, "rescale_factor": 1 / 255},
        {**HALVES, "do_rescale": None, "rescale_factor": None, "do_normalize": None},
    ],
)
def test_images_are_normalized_as_their_configuration_says(images, tmp_path):
    library("transformers")
    assert normalization(built_from(tmp_path, images=images)) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("images", [None, {}, {**HALVES, "do_normalize": False}])
def test_a_configuration_that_says_nothing_of_the_images_leaves_them(images, tmp_path):
    library("transformers")
    assert normalization(built_from(tmp_path, images=images)) == (None, None)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("{", ["preprocessor_config.json", "readable JSON"]),
        ("[" * 100_000, ["preprocessor_config.json", "nested too deeply"]),
        ("null", ["preprocessor_config.json of", "a table"]),
        ([1], ["preprocessor_config.json of", "a table"]),
        (
            {**HALVES, "do_rescale": False},
            ["got preprocessor_config.json of", "do_rescale is false;"],
        ),
        ({**HALVES, "do_rescale": "no"}, ["do_rescale is 'no'", "true or false"]),
        ({**HALVES, "rescale_factor": 1.0}, ["got preprocessor_config.json of", "_factor is 1;"]),
        ({**HALVES, "rescale_factor": float("nan")}, ["rescale_factor is nan;", "--normalize"]),
        ({**HALVES, "rescale_factor": "a"}, ["rescale_factor is 'a'", "a number"]),
        ({"image_mean": [0.5]}, ["image_mean and no image_std", "--normalize"]),
        ({"image_std": [0.5]}, ["image_std and no image_mean", "--normalize"]),
        ({"image_mean": 0.5, "image_std": 0.5}, ["image_mean is 0.5", "a list of numbers"]),
        ({"image_mean": ["a"], "image_std": [1]}, ["image_mean is ['a']", "a list of numbers"]),
        ({"image_mean": [0.5], "image_std": [0.0]}, ["std (0.0,)", "above zero", "--normalize"]),
        ({"image_mean": [float("nan")], "image_std": [1.0]}, ["mean (nan,)", "--normalize"]),
        ({"image_mean": [0.5], "image_std": [1e-320]}, ["std (1e-320,)", "--normalize"]),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value)[:60],
)
def test_images_that_cannot_be_prepared_as_said_are_refused_until_the_user_says_how(
    images, words, tmp_path
):
    library("transformers")
    refused(lambda: built_from(tmp_path, images=images), *words)
    net = model_factory(f"hf:{tmp_path}#normalize=0.1,0.1,0.1,0.2,0.2,0.2")()
    assert normalization(net) == ((0.1,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("make", [lambda file: file.mkdir(), lambda file: file.symlink_to("none")])
def test_what_is_there_in_place_of_the_configuration_of_images_is_no_missing_one(make, tmp_path):
    library("transformers")
    make(tmp_path / "preprocessor_config.json")
    refused(lambda: built_from(tmp_path), "preprocessor_config.json", "readable JSON")


@pytest.mark.parametrize(
    ("error", "was_missing", "refuses"),
    [
        ("EntryNotFoundError", False, False),
        ("LocalEntryNotFoundError", True, False),
        ("LocalEntryNotFoundError", False, True),
        ("HfHubHTTPError", False, True),
    ],
)
def test_only_a_file_that_a_repository_lacks_is_a_missing_one(
    error, was_missing, refuses, tmp_path, monkeypatch
):
    library("transformers")
    hub = library("huggingface_hub")
    kind = getattr(hub.utils, error)
    failure = kind.__new__(kind)  # whatever its arguments are in this release
    (tmp_path / "config.json").write_text(json.dumps(VIT))

    def download(repository, file):
        if file == "config.json":
            return str(tmp_path / file)
        raise failure

    monkeypatch.setattr(hub, "hf_hub_download", download)
    held = hub._CACHED_NO_EXIST if was_missing else None
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: held)
    build = model_factory("hf:somebody/vit")
    if refuses:
        refused(build, "preprocessor_config.json of 'somebody/vit'", "can be reached")
    else:
        assert normalization(build()) == (None, None)


def test_building_shows_no_progress_of_transformers(tmp_path, capfd):
    logging = library("transformers").utils.logging
    shown = logging.is_progress_bar_enabled()
    built_from(tmp_path)
    assert "Writing model shards" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled() == shown


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a": "missing.safetensors"}}, ["missing.safetensors", "does not exist"]),
        ({"weight_map": {"a": "../part.safetensors"}}, ["lack a"]),
        ({"weight_map": 3}, ["without a weight_map"]),
        ([], ["without a weight_map"]),
    ],
)
def test_an_index_that_is_not_whole_is_refused(index, words, tmp_path):
    save_checkpoint({"b": torch.ones(1)}, tmp_path / "part.safetensors")
    (tmp_path / "m.index.json").write_text(json.dumps(index))
    refused(lambda: load_checkpoint(tmp_path / "m.index.json"), *words)


# ---- what is asked for beyond the network


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:test_resnett", ["unknown to timm", "did you mean"]),
        ("timm:test_resnet,no_such=3", ["cannot be built", "no_such"]),
        ("timm:test_resnet.nope", ["(nope)", "did you mean test_resnet"]),
        ("timm:test_resnet,pretrained=true", ["with pretrained", "the architecture"]),
        ("timm:test_resnet,features_only=true", ["with features_only", "the architecture"]),
        ("timm:test_resnet,checkpoint_path=a.pt", ["with checkpoint_path", "the architecture"]),
        ("timm:test_resnet,num_classes=0", ["0 classes", "1 or more"]),
        ("timm:test_resnet,in_chans=0", ["conv1.0.weight, which is empty", "1 or more"]),
        ("torchvision:resnet18,weights=DEFAULT", ["with weights", "the architecture"]),
        ("torchvision:resnet18,pretrained=true", ["with pretrained", "the architecture"]),
        ("torchvision:resnet18,num_classes=0", ["fc.weight, which is empty", "1 or more"]),
        ("torchvision:resnet19", ["unknown to torchvision", "did you mean"]),
        pytest.param("hf:" + "x" * 300, ["config.json of 'xxx"], id="a name too long"),
    ],
)
def test_unknown_networks_of_libraries_are_refused(spec, words):
    kind = spec.partition(":")[0]
    library("transformers" if kind == "hf" else kind)
    refused(lambda: model_factory(spec)(), *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("class=10", ["'class=10'", "classes=N"]),
        ("classes=ten", ["classes 'ten'", "1 or more", "--classes 10"]),
        ("classes=0", ["classes '0'", "1 or more", "--classes 10"]),
        ("resize=-3", ["resize '-3'", "1 or more", "--resize 10"]),
        pytest.param("resize=" + "9" * 5000, ["resize '999", "1 or more"], id="5000 digits"),
        ("resize=0", ["resize '0'", "--resize 10"]),
        ("size=3", ["'size=3'"]),
        ("normalize=imagnet", ["did you mean imagenet"]),
        ("normalize=0.5", ["means and deviations"]),
        ("normalize=0.5,0", ["std (0.0,)", "above zero"]),
        ("normalize=nan,0.5", ["mean (nan,)", "finite"]),
        ("normalize=inf,0.5", ["mean (inf,)", "finite"]),
        ("normalize=1e39,0.5", ["mean (1e+39,)", "finite in float32"]),
        ("normalize=0.5,nan", ["std (nan,)", "above zero"]),
        ("normalize=0.5,1e400", ["std (inf,)", "divided by"]),
        ("normalize=0.5,1e-320", ["std (1e-320,)", "divided by"]),
        ("normalize=0.5,1e-40", ["std (1e-40,)", "divided by"]),
    ],
)
def test_bad_words_after_the_network_are_refused(words, says):
    refused(lambda: model_factory(f"isthmus.models:small_cnn#{words}"), *says)


def test_factories_get_their_classes_by_the_name_they_have():
    net = model_factory("isthmus.models:small_cnn,channels=1,width=4#classes=7")()
    assert net.eval()(X[:, :1]).shape == (6, 7)
    refused(lambda: model_factory("torch.nn:Flatten#classes=3"), "--classes 3", "num_classes")


def plain_and_prepared():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 900, 3))
    layers = nn.Sequential(Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), inner).eval()
    hooked = prepared(nn.Sequential(*inner), Preparation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))).eval()
    return layers, hooked


def test_a_preparation_is_what_a_layer_in_front_would_be():
    layers, hooked = plain_and_prepared()
    assert torch.equal(layers(X), hooked(X))
    attack = PGD(Linf(0.05), steps=3)
    assert torch.equal(attack(layers, X, Y), attack(hooked, X, Y))
    assert torch.equal(*(Interval()(net, X, Y, Linf(0.01)) for net in (layers, hooked)))
    assert hooked.to(torch.bfloat16)(X.bfloat16()).dtype == torch.bfloat16


def test_images_of_other_channels_are_refused():
    _, hooked = plain_and_prepared()
    refused(lambda: hooked(X[:, :1]), "images of 1 channel;", "in_chans=1")


def test_normalizations_have_names():
    mean, std = parse_normalization("imagenet")
    assert torch.equal(torch.tensor(mean), IMAGENET[0])
    assert torch.equal(torch.tensor(std), IMAGENET[1])
