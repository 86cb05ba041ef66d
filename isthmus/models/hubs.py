"""Networks of libraries by name: `timm:NAME`, `torchvision:NAME`, `hf:ID_OR_FOLDER`.

They are built with random weights; those of the checkpoint come afterward. What a configuration
says of classes, image size and normalization is used where nothing else is given. Code that a model
repository brings along is never run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from isthmus.models.repository import Normalization, Settings, is_count
from isthmus.models.saved_names import speak_saved_names
from isthmus.runs.imports import of_extra
from isthmus.runs.wording import counted, first_line, suggestion
from isthmus.types import BadInput


def no_normalization() -> None:
    """Return None: a configuration that says nothing of normalization."""


@dataclass(frozen=True)
class Built:
    """A network as it was built, and how its configuration says that images are prepared.

    `normalization` reads that of each channel, None where nothing is said; it raises BadInput where
    what is said cannot be followed, and is not called where the user says it. `size` is the only
    size of images that the network takes; None where it takes any. `left_out` says what in the
    configuration does not fit the network.
    """

    network: nn.Module
    classes: int | None = None
    normalization: Callable[[], Normalization | None] = no_normalization
    size: tuple[int, int] | None = None
    left_out: str = ""

    def check(self, name: str) -> Built:
        """Return it. Raises BadInput where the network has no class, or weights without values."""
        empty = [key for key, held in self.network.named_parameters() if not held.numel()]
        if self.classes == 0 or empty:
            lacks = f"{empty[0]}, which is empty" if empty else "0 classes"
            raise BadInput(
                f"{name}, a network with {lacks}",
                expected="a classifier of images: 1 or more of classes and of channels",
                fix="correct its arguments, or pass --classes",
            )
        return self


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


def _check_architecture(what: str, given: Iterable[str], others: Collection[str]) -> None:
    """Raise BadInput where a library is given more than the architecture: weights to load, files
    and folders, other outputs. `others` are the library's names of these.
    """
    for name in given:
        if name in others or name.startswith("pretrained"):
            raise BadInput(
                f"{what} with {name}",
                expected="arguments of the architecture",
                fix=f"leave {name} out: the weights are those of the checkpoint, and --normalize "
                "says how images are prepared",
            )


def _own_names(*functions: Callable[..., Any]) -> set[str]:
    """Return the names that functions take for themselves; others they pass on to the network."""
    return {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }


def _timm_configuration(timm: Any, name: str) -> Any:
    """Return what timm says of a network. Raises BadInput where it does not know the name, or what
    stands after its dot.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        raise BadInput(
            f"model {name!r}, unknown to timm",
            expected="one of timm.list_models()",
            fix=suggestion(architecture, timm.list_models()),
        )
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise BadInput(
            f"model {name!r} ({first_line(error)})",
            expected=f"{architecture}, or one of timm.list_pretrained('{architecture}.*')",
            fix=suggestion(name, [architecture, *timm.list_pretrained(f"{architecture}.*")]),
        ) from error


def timm_network(
    name: str, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return a network of timm. Raises BadInput where timm does not know it, or its arguments, and
    where they are about more than the architecture.
    """
    timm = _library("timm", "timm")
    config = _timm_configuration(timm, name)
    not_passed_on = _own_names(timm.create_model, timm.models.build_model_with_cfg)
    _check_architecture(f"timm:{name}", named, {"features_only", *not_passed_on})
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
    if len(mean) == channels:
        return Built(network, network.num_classes, lambda: (mean, std), fixed)
    left_out = ""
    if mean:
        its = counted(len(mean), "channel", "channels")
        left_out = f"the normalization of its configuration, for {its}, was not taken"
    return Built(network, network.num_classes, size=fixed, left_out=left_out)


def torchvision_network(
    name: str, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return a network of torchvision. Raises BadInput where it is unknown, or its arguments, and
    where they are about more than the architecture.
    """
    models = _library("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise BadInput(
            f"model {name!r}, unknown to torchvision.models",
            expected="a classifier",
            fix=suggestion(name, known),
        )
    builder = models.get_model_builder(name)
    _check_architecture(f"torchvision:{name}", named, _own_names(builder))
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
    normalization = tuple(images.mean), tuple(images.std)
    return Built(network, count, lambda: normalization, fixed)


def _class_of(builder: Callable[..., Any]) -> str:
    """Return the name of the class that a builder of torchvision says it returns."""
    returned = inspect.signature(builder).return_annotation
    return getattr(returned, "__name__", str(returned).rpartition(".")[2])


def hugging_face_network(
    name: str, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return the image classifier that a configuration on Hugging Face, or in a folder, describes.

    Only JSON is read. Raises BadInput where it is missing or damaged, needs code of its own, or
    describes nothing that transformers or timm can build.
    """
    config = Settings.read(name, "config.json")
    if config is None:
        raise BadInput(
            f"{name} without config.json",
            expected="a model as save_pretrained writes it",
            fix="check the path",
        )
    told = Settings(config.place, {**config.fields, **named})
    told.check_runs_no_code()
    if config.text("architecture") is not None:
        return _timm_on_hugging_face(config, named, classes, size)
    transformers = _library("transformers", "hf")
    options = _transformers_options(told, classes, size)
    kind = options.pop("model_type")
    described = _called(f"hf:{name}", transformers.AutoConfig.for_model, kind, **options)
    fixed = _size_of(config.place, described)
    make = transformers.AutoModelForImageClassification.from_config
    network = _called(f"hf:{name}", make, described, trust_remote_code=False)
    speak_saved_names(network)
    return Built(network, described.num_labels, partial(_normalization_of, name), fixed)


def _transformers_options(
    config: Settings, classes: int | None, size: int | None
) -> dict[str, Any]:
    """Return what a configuration of transformers is made of, its `model_type` among it. Raises
    BadInput where that is missing.
    """
    if config.text("model_type") is None:
        raise BadInput(
            f"{config.place} without model_type",
            expected="model_type, of transformers, or architecture, of timm",
            fix="check the repository, or build the network yourself: PKG.MODULE:FACTORY",
        )
    options = dict(config.fields)
    if classes is not None:
        options |= {"num_labels": classes, "id2label": None, "label2id": None}
        options = {key: value for key, value in options.items() if value is not None}
    if size is not None and "image_size" in options:
        options["image_size"] = size
    return options


def _size_of(place: str, described: Any) -> tuple[int, int] | None:
    """Return the only size of images that a configuration of transformers allows, None where it
    names none. Raises BadInput where that is no size.
    """
    side = getattr(described, "image_size", None)
    if side is None:
        return None
    sides = (side, side) if isinstance(side, int) else side
    if not (isinstance(sides, (list, tuple)) and len(sides) == 2 and all(map(is_count, sides))):
        raise BadInput(
            f"{place}, where image_size is {side!r}",
            expected="a whole number of 1 or more, or two of them",
            fix="correct the file, or pass --resize",
        )
    return (sides[0], sides[1])


def _timm_on_hugging_face(
    config: Settings, named: Mapping[str, Any], classes: int | None, size: int | None
) -> Built:
    """Return the network of a configuration in timm's layout."""
    options = {**config.table("model_args").fields, **named}
    count = classes if classes is not None else config.count("num_classes")
    images = config.table("pretrained_cfg")
    try:
        built = timm_network(str(config.text("architecture")), options, count, size)
    except BadInput as error:
        raise error.within(config.place) from error

    def normalization() -> Normalization | None:
        return images.normalization("mean", "std") or built.normalization()

    return replace(built, normalization=normalization)


def _normalization_of(name: str) -> Normalization | None:
    """Return what the configuration of the images says; None where there is no such file.

    Raises BadInput where images are scaled to another range than [0, 1] first, and where the file
    cannot be read.
    """
    images = Settings.read(name, "preprocessor_config.json")
    if images is None:
        return None
    factor = images.number("rescale_factor")
    if not images.truth("do_rescale", default=True):
        raise _of_another_range(f"{images.place}, where do_rescale is false")
    if factor is not None and not abs(factor * 255 - 1) <= 1e-3:
        raise _of_another_range(f"{images.place}, where rescale_factor is {factor:g}")
    if not images.truth("do_normalize", default=True):
        return None
    return images.normalization("image_mean", "image_std")


def _of_another_range(setting: str) -> BadInput:
    """Return the refusal of images that reach the network in another range than [0, 1]."""
    return BadInput(
        setting,
        expected="a network on images in [0, 1]",
        fix="pass --normalize MEAN,STD for images in [0, 1]",
    )


def _called(what: str, make: Callable[..., Any], /, *inputs: Any, **named: Any) -> Any:
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
