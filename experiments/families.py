"""Table: networks of many families, backdoored and repaired by the defaults alone.

    isthmus sweep experiments/families.toml --set data=DIR    a file per job, and the table

DIR holds train.parquet and test.parquet in the Hugging Face layout (MNIST, or CIFAR-10 with
channels=3). A job is a family and a seed: a small network of the family is trained on poisoned
images, repaired from 500 clean ones without a setting of its own, and judged on test images that
the repair has not seen.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attackers import drawn
from command import parts, use_threads
from torch import nn

from isthmus import Data, Patch, fit, poison, repair, split
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, as_records, measure
from isthmus.models import model_factory
from isthmus.models.preparation import Preparation, prepared
from isthmus.training import one_cycle

SIDE, TARGET, TRIGGER, RATE, TRUSTED = 32, 0, Patch(3), 0.1, 500


def of_timm(name: str, channels: int) -> nn.Module:
    """Return a network that timm knows by name."""
    return model_factory(
        f"timm:{name},in_chans={channels}#classes=10;resize={SIDE};normalize=none"
    )()


def swin(channels: int) -> nn.Module:
    """Return a Swin transformer of two stages, on windows of 4x4 tokens."""
    from timm.models.swin_transformer import SwinTransformer

    sizes = {"patch_size": 2, "window_size": 4, "embed_dim": 32}
    stages = {"depths": (2, 2), "num_heads": (2, 4)}
    net = SwinTransformer(img_size=SIDE, in_chans=channels, num_classes=10, **sizes, **stages)
    return prepared(net, Preparation(size=(SIDE, SIDE)))


def mixer(channels: int, block: str, **options: Any) -> nn.Module:
    """Return a network of four blocks of perceptrons over tokens and channels."""
    from timm.models import mlp_mixer

    sizes = {"patch_size": 4, "num_blocks": 4, "embed_dim": 96}
    kind = getattr(mlp_mixer, block)
    if block == "SpatialGatingBlock":
        options["mlp_layer"] = mlp_mixer.GatedMlp
    net = mlp_mixer.MlpMixer(10, SIDE, channels, block_layer=kind, **sizes, **options)
    return prepared(net, Preparation(size=(SIDE, SIDE)))


FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "ResNet": partial(of_timm, "test_resnet"),
    "EfficientNet": partial(of_timm, "test_efficientnet"),
    "EfficientNet, GroupNorm": partial(of_timm, "test_efficientnet_gn"),
    "MobileNetV3": partial(of_timm, "mobilenetv3_small_050"),
    "ConvNeXt": partial(of_timm, "test_convnext"),
    "NFNet": partial(of_timm, "test_nfnet"),
    "MambaOut": partial(of_timm, "test_mambaout"),
    "ByobNet": partial(of_timm, "test_byobnet"),
    "ViT": partial(of_timm, "test_vit,patch_size=4"),
    "Swin": swin,
    "MLP-Mixer": partial(mixer, block="MixerBlock"),
    "ResMLP": partial(mixer, block="ResBlock", mlp_ratio=4),
    "gMLP": partial(mixer, block="SpatialGatingBlock", mlp_ratio=4),
}


def received(net: nn.Module, train: Data, seed: int, steps: int, checkpoint: Path) -> nn.Module:
    """Return the network as the attacker hands it on: trained on poisoned images."""
    bad = poison(train, TRIGGER, rate=RATE, target=TARGET, generator=drawn(seed))
    options = {"schedule": one_cycle, "clip": 1.0, "batch_size": 64, "precision": "fp32"}
    adam = partial(torch.optim.AdamW, weight_decay=0.05)
    fit(net, bad, steps=steps, lr=2e-3, optimizer=adam, seed=seed, checkpoint=checkpoint, **options)
    return net


def run(
    family: str, seed: int, data: str, channels: int, steps: int, images: int, scratch: Path
) -> dict[str, Any]:
    """Train, tamper, repair, judge. `images` is how many the attacker trains on."""
    use_threads()
    train, test = parts(data)
    torch.manual_seed(seed)
    tampered = FAMILIES[family](channels)
    tampered = received(tampered, train[:images], seed, steps, scratch / "state")
    trusted, judged = split(test, [TRUSTED, min(3000, len(test) - TRUSTED)], drawn(seed))
    judges = {
        "accuracy": Accuracy(judged),
        "attack success": AttackSuccess(judged, TRIGGER, TARGET),
    }
    before = measure(tampered, judges)
    began, cpu = time.perf_counter(), time.process_time()
    found = repair(tampered, trusted, seed=seed)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    after = measure(found.model, judges)
    lost = 100 * (before["accuracy"] - after["accuracy"])
    return {
        "family": family,
        "parameters": sum(p.numel() for p in tampered.parameters()),
        "before": as_records(before),
        "after": as_records(after),
        "points lost": lost,
        "good": lost <= 5 and after["attack success"] <= 0.05,
        "t": float(found.t),
        "reason": found.t.reason,
        "seconds": seconds,
        "cpu seconds": cpu,
        "peak MB of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "provenance": provenance(seed, {"trusted": trusted, "judged": judged}).record(),
    }
