"""Networks of libraries by name: `timm:NAME`, `torchvision:NAME`, `hf:ID_OR_FOLDER`.

They are built with random weights; those of the checkpoint come afterward. What a configuration
says of classes, image size and normalization is used where nothing else is given. Code that a model
repository brings along is never run.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from isthmus.models.saved_names import speak_saved_names
from isthmus.runs.files import read_json
from isthmus.runs.imports import of_extra
from isthmus.runs.wording import first_line, suggestion
from isthmus.types import BadInput


@dataclass(frozen=True)
class Built:
    """A network as it was built, and how its configuration says that images are prepared.

    `size` is the only size of images that the network takes; None where it takes any.
    """

    network: nn.Module
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None


def _library(name: str, extra: str) -> Any:
    """Import a library. Raises BadInput where it is missing, or does not fit this torch."""
    try:
        return of_extra(name, extra, f"--model {extra}:NAME")
    except RuntimeError as error:  # torchvision's operators are compiled for one torch
        raise BadInput(
            f"{name}, which does not load with this torch ({first_line(error)})",
            expected="torch and torchvision of one release and one kind, CPU or CUDA",
            fix="install both from the same place",
        ) from error


def timm_network(
    name: str, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return a network of timm. Raises BadInput where timm does not know it, or its arguments."""
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        known = timm.list_models()
        raise BadInput(
            f"model {name!r}, unknown to timm",
            expected="one of timm.list_models()",
            fix=suggestion(name.partition(".")[0], known),
        )
    config = timm.get_pretrained_cfg(name)
    options = dict(named)
    if classes is not None:
        options.setdefault("num_classes", classes)
    if size is not None and config is not None and config.fixed_input_size:
        options.setdefault("img_size", size)
    network = _called(f"timm:{name}", timm.create_model, name, pretrained=False, **options)
    return _of_timm(network, int(options.get("in_chans", 3)), options.get("img_size"))


def _of_timm(network: Any, channels: int, size: Any) -> Built:
    config = network.pretrained_cfg
    fixed = None
    if config.get("fixed_input_size"):
        side = size or config["input_size"][1:]
        fixed = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    mean, std = (tuple(config.get(key) or ()) for key in ("mean", "std"))
    if len(mean) != channels:
        mean = std = ()
    return Built(network, network.num_classes, mean or None, std or None, fixed)


def torchvision_network(
    name: str, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return a network of torchvision. Raises BadInput where it is unknown, or its arguments."""
    models = _library("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise BadInput(
            f"model {name!r}, unknown to torchvision.models",
            expected="a classifier",
            fix=suggestion(name, known),
        )
    builder = models.get_model_builder(name)
    options = dict(named)
    if classes is not None:
        options.setdefault("num_classes", classes)
    weights = models.get_model_weights(name).DEFAULT
    images = weights.transforms()
    is_fixed = "image_size" in inspect.signature(getattr(models, _class_of(builder))).parameters
    if is_fixed:
        options.setdefault("image_size", size or images.crop_size[0])
    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", True)
    network = _called(f"torchvision:{name}", builder, weights=None, **options)
    fixed = (options["image_size"],) * 2 if is_fixed else None
    count = options.get("num_classes", len(weights.meta["categories"]))
    return Built(network, count, tuple(images.mean), tuple(images.std), fixed)


def _class_of(builder: Callable[..., Any]) -> str:
    """Return the name of the class that a builder of torchvision says it returns."""
    returned = inspect.signature(builder).return_annotation
    return getattr(returned, "__name__", str(returned).rpartition(".")[2])


def hugging_face_network(
    name: str, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return the image classifier that a configuration on Hugging Face, or in a folder, describes.

    Only JSON is read. Raises BadInput where it is missing, needs code of its own, or describes
    nothing that transformers or timm can build.
    """
    config = read_json(_file_of(name, "config.json"))
    if not isinstance(config, dict):
        raise BadInput(f"config.json of {name}", expected="a table", fix="check the repository")
    if "auto_map" in config:
        raise BadInput(
            f"{name}, whose network is built by code in its repository",
            expected="one that transformers or timm knows",
            fix="that code is never run; read it, and pass it as PKG.MODULE:FACTORY",
        )
    if "architecture" in config:
        return _timm_on_hugging_face(config, named, classes, size)
    transformers = _library("transformers", "hf")
    options = {**config, **named}
    kind = options.pop("model_type", "")
    if classes is not None:
        options |= {"num_labels": classes, "id2label": None, "label2id": None}
        options = {key: value for key, value in options.items() if value is not None}
    if size is not None and "image_size" in options:
        options["image_size"] = size
    described = _called(f"hf:{name}", transformers.AutoConfig.for_model, kind, **options)
    make = transformers.AutoModelForImageClassification.from_config
    network = _called(f"hf:{name}", make, described, trust_remote_code=False)
    speak_saved_names(network)
    side = getattr(described, "image_size", None)
    fixed = (side, side) if isinstance(side, int) else tuple(side) if side else None
    mean, std = _normalization_of(name)
    return Built(network, described.num_labels, mean, std, fixed)


def _timm_on_hugging_face(
    config: Mapping[str, Any], named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return the network of a configuration in timm's layout."""
    options = {**config.get("model_args", {}), **named}
    count = classes if classes is not None else config.get("num_classes")
    built = timm_network(str(config["architecture"]), options, count, size)
    images = config.get("pretrained_cfg", {})
    mean, std = (tuple(images.get(key) or ()) or None for key in ("mean", "std"))
    return Built(built.network, built.classes, mean or built.mean, std or built.std, built.size)


def _normalization_of(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and std from the configuration of the images; None where there is none.

    Raises BadInput where images are scaled to another range than [0, 1] first.
    """
    try:
        images = read_json(_file_of(name, "preprocessor_config.json"))
    except BadInput:
        return None, None
    factor = float(images.get("rescale_factor", 1 / 255))
    if abs(factor * 255 - 1) > 1e-3:
        raise BadInput(
            f"{name}, whose images are multiplied by {factor:g}",
            expected="a network on images in [0, 1]",
            fix="pass --normalize MEAN,STD for images in [0, 1]",
        )
    if not images.get("do_normalize", True) or not images.get("image_mean"):
        return None, None
    return tuple(images["image_mean"]), tuple(images["image_std"])


def _file_of(name: str, file: str) -> Path:
    """Return a file of a folder, or of a repository on Hugging Face. Raises BadInput without it."""
    if os.path.isdir(name):  # which is false of a name that is too long, too
        if not (Path(name) / file).exists():
            raise BadInput(
                f"folder {name} without {file}",
                expected="a model as save_pretrained writes it",
                fix="check the path",
            )
        return Path(name) / file
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, file))
    except Exception as error:  # of the network, of rights, of names: open-ended
        raise BadInput(
            f"{file} of {name!r} ({first_line(error)})",
            expected="a folder, or a repository that can be reached",
            fix="download it, and pass the folder: hf:FOLDER",
        ) from error


def _called(what: str, make: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Call what builds a network or a configuration. Raises BadInput where it fails."""
    try:
        return make(*inputs, **named)
    except Exception as error:  # arguments reach the library as they are
        raise BadInput(
            f"{what}, which cannot be built ({type(error).__name__}: {first_line(error)})",
            expected="arguments that it takes",
            fix="correct them, or --classes and --resize",
        ) from error


HUBS: dict[str, Callable[[str, Mapping[str, Any], int | None, int | None], Built]] = {
    "timm": timm_network,
    "torchvision": torchvision_network,
    "hf": hugging_face_network,
}
"""What builds a network, by what stands before the colon."""
