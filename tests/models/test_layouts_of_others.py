"""Checkpoints that other libraries write, from their real objects where these are installed."""

import pytest
import torch
from support.libraries import library
from support.stored import perceptron, same
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from isthmus.models import load_checkpoint, model_factory, save_checkpoint

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class LightningModule(nn.Module):
    """What `Trainer.save_checkpoint` finds: the network as an attribute, beside a loss."""

    def __init__(self, network):
        super().__init__()
        self.model = network
        self.criterion = nn.CrossEntropyLoss()


def lightning(network):
    """Return the entries of a checkpoint of Lightning 2, around a real state of an optimizer."""
    module = LightningModule(network)
    optimizer = torch.optim.Adam(module.parameters())
    sum(p.sum() for p in module.parameters()).backward()
    optimizer.step()
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x.ckpt"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }


def averaged(network):
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(network)
    return average.state_dict()


OBJECTS = {
    "Lightning": lightning,
    "DataParallel": lambda net: {"state_dict": nn.DataParallel(net).state_dict()},
    "torch.compile": lambda net: torch.compile(net, backend="eager").state_dict(),
    "compiled DataParallel": lambda net: torch.compile(
        nn.DataParallel(net), backend="eager"
    ).state_dict(),
    "average of torch": averaged,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_the_network_inside_is_read(name, tmp_path):
    net = perceptron()
    torch.save(OBJECTS[name](net), tmp_path / "x.ckpt")
    assert same(load_checkpoint(tmp_path / "x.ckpt", perceptron()), net)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["Lightning", "DataParallel", "torch.compile"])
def test_halves_inside_a_layout_are_cast(name, kind, tmp_path):
    net = perceptron().to(kind)
    torch.save(OBJECTS[name](net), tmp_path / "x.ckpt")
    loaded = load_checkpoint(tmp_path / "x.ckpt", perceptron())
    assert all(v.dtype == torch.float32 for v in loaded.state_dict().values())
    assert same(loaded, net.float())


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside the network"])
@pytest.mark.parametrize("average", ["ModelEmaV2", "ModelEmaV3"])
def test_an_average_of_timm_is_read_as_its_trainer_writes_it(average, beside, tmp_path):
    library("timm")
    from timm.utils import get_state_dict, model_ema

    build = model_factory("timm:test_resnet#classes=3;resize=32")
    net = build()
    inner = next(child for child in net.modules() if type(child).__module__.startswith("timm"))
    kept = getattr(model_ema, average)(inner, decay=0.5)
    content = {"arch": "test_resnet", "version": 2, "state_dict_ema": get_state_dict(kept)}
    if beside:  # then the network is the one that was trained
        with torch.no_grad():
            torch._foreach_add_(list(inner.parameters()), 1.0)
        content["state_dict"] = inner.state_dict()
    torch.save(content, tmp_path / "x.pth.tar")
    assert same(load_checkpoint(tmp_path / "x.pth.tar", build()), net)


def test_a_repaired_copy_keeps_the_names_of_a_plain_network(tmp_path):
    net = perceptron()
    torch.save(lightning(net), tmp_path / "x.ckpt")
    loaded = load_checkpoint(tmp_path / "x.ckpt", perceptron())
    file = save_checkpoint(loaded, tmp_path / "y.safetensors")
    assert load_checkpoint(file).keys() == net.state_dict().keys()
