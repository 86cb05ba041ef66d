"""Networks of libraries, and how images are prepared, on the command line."""

from safetensors.torch import load_file
from support.command_line import isthmus, refused
from support.libraries import library


def test_a_network_of_timm_is_trained_and_measured_without_a_module(tmp_path):
    timm = library("timm")
    model = ("--model", "timm:test_convnext,in_chans=1", "--classes", 10, "--resize", 32)
    data = ("--data", "digits:train#n=64")
    out = ("--steps", 2, "--lr", 0.01, "--out", "a.safetensors")
    ended = isthmus("train", *model, "--normalize", "0.3,0.4", *data, *out, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (
        "10 classes, images resized to 32x32 and normalized by mean 0.3 and std 0.4" in ended.stderr
    )
    names = timm.create_model("test_convnext", in_chans=1, num_classes=10).state_dict().keys()
    assert load_file(tmp_path / "a.safetensors").keys() == names
    losses = [
        isthmus("evaluate", "a.safetensors", *model, *normalized, *data, folder=tmp_path).stdout
        for normalized in (("--normalize", "0.3,0.4"), ("--normalize", "none"))
    ]
    assert losses[0] != losses[1]


def test_bad_preparations_are_refused_in_one_line(home):
    model = ("a.safetensors", "--model", "isthmus.models:small_cnn,channels=1,width=8")
    data = ("--data", "digits:test")
    assert "imagenet" in refused(home, "evaluate", *model, "--normalize", "imagnet", *data)
    assert "images of 1 channel;" in refused(
        home, "evaluate", *model, "--normalize", "imagenet", *data
    )
    assert "classes=3" not in refused(home, "evaluate", *model, "--classes", 3, *data)
