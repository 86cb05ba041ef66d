"""A network by name: `PKG.MODULE:FACTORY`, or one of a library, `timm:NAME`. The only code that is
ever called is the user's and the library's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from isthmus.models.hubs import HUBS, Built
from isthmus.models.preparation import Preparation, parse_normalization, prepared
from isthmus.runs.imports import attribute_of, imported
from isthmus.runs.notices import notice
from isthmus.runs.wording import first_line, suggestion, whole_number
from isthmus.types import BadInput


def _setting(spec: str, text: str) -> tuple[str, Any]:
    """Return a `name=value` of a spec, the value as a number or a truth value where it reads as
    one.
    """
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise BadInput(
            f"{text!r} in {spec!r}",
            expected="name=value",
            fix="write PKG.MODULE:FACTORY,depth=26,classes=10",
        )
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    for read in (int, float):
        try:
            return name, read(value)
        except ValueError:
            pass
    return name, value


def _check_arguments(spec: str, factory: Callable[..., Any], named: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of a builtin
        return
    names = list(signature.parameters)
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [name for name in named if name not in names and not anything]
    try:
        signature.bind(**named)
    except TypeError as error:
        takes = f"arguments of {spec.partition(':')[2].partition(',')[0]}{signature}"
        fix = suggestion(unknown[0], names) if unknown else "pass it as ,name=value"
        raise BadInput(f"{spec!r}: {error}", expected=takes, fix=fix) from error


def _build(
    spec: str, factory: Callable[..., Any], named: Mapping[str, Any], asked: _Asked
) -> nn.Module:
    try:
        module = factory(**named)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything, or exit
        raise BadInput(
            f"{spec!r}, which fails ({type(error).__name__}: {first_line(error)})",
            expected="a callable that builds the network",
            fix="correct it or its arguments",
        ) from error
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"{spec!r}, which returns a {type(module).__name__}",
            expected="a callable that returns a torch.nn.Module",
            fix="return the network",
        )
    if asked.normalize is None and asked.resize is None:
        return module
    return asked.prepared(Built(module))


def model_factory(spec: str) -> Callable[[], nn.Module]:
    """Return what builds a network: "PKG.MODULE:FACTORY", with arguments as "...,name=value,...".

    "timm:NAME", "torchvision:NAME" and "hf:ID_OR_FOLDER" are networks of these libraries, with
    random weights; their configuration says how many classes they have and how images are prepared,
    unless "#classes=10;resize=64;normalize=imagenet" at the end does. Normalization may be "none",
    or means and deviations. It is no part of the state dict (`preparation.py`).

    The module is imported, from the current directory too: this runs the user's own code, never
    that of a checkpoint. Values read as int, float, true, false or none where they can, else as
    text. Raises BadInput where module, factory or argument is unknown, or what is called fails or
    returns no module.

    >>> model_factory("isthmus.models:preact_resnet,depth=8,classes=3")().linear.out_features
    3
    """
    whole, _, words = spec.partition("#")
    asked = _Asked.read(words)
    target, *settings = whole.split(",")
    place, _, name = target.partition(":")
    if not place or not name:
        raise BadInput(
            f"model {spec!r}",
            expected="PKG.MODULE:FACTORY",
            fix="for example isthmus.models:preact_resnet,depth=20",
        )
    pairs = [_setting(spec, text) for text in settings]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise BadInput(
            f"an argument twice in {spec!r}",
            expected="each argument once",
            fix="remove one of the two",
        )
    if place in HUBS:
        return partial(_from_hub, HUBS[place], name, named, asked)
    factory = _factory(place, name)
    arguments = asked.with_classes(spec, factory, named)
    _check_arguments(spec, factory, arguments)
    return partial(_build, spec, factory, arguments, asked)


def _count(name: str, text: str) -> int:
    """Return the count that a text is. Raises BadInput where it is none of 1 or more."""
    number = whole_number(text)
    if not number:
        raise BadInput(
            f"{name} {text!r}",
            expected="a whole number of 1 or more",
            fix=f"for example --{name} 10, or #{name}=10 at the end of the model",
        )
    return number


@dataclass(frozen=True)
class _Asked:
    """What a spec asks for beyond the network: its classes, and how images are prepared.

    None leaves it to the configuration.
    """

    classes: int | None = None
    resize: int | None = None
    normalize: str | None = None

    @classmethod
    def read(cls, words: str) -> _Asked:
        """Return what a text such as "classes=10;resize=64;normalize=imagenet" asks for.

        Raises BadInput where it holds anything else.
        """
        given: dict[str, Any] = {}
        for word in filter(None, words.split(";")):
            name, _, value = word.partition("=")
            if name == "normalize":
                Preparation(*(parse_normalization(value) or (None, None)))  # or refused
                given[name] = value
            elif name in ("classes", "resize"):
                given[name] = _count(name, value)
            else:
                raise BadInput(
                    f"{word!r} after #",
                    expected="classes=N, resize=N or normalize=imagenet|MEAN,STD",
                    fix="separate them by semicolons",
                )
        return cls(**given)

    def with_classes(
        self, spec: str, factory: Callable[..., Any], named: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return a factory's arguments, with the number of classes by the name it has for them.

        Raises BadInput where it has none.
        """
        if self.classes is None:
            return named
        known = inspect.signature(factory).parameters
        takes = [name for name in ("classes", "num_classes") if name in known]
        if not takes:
            raise BadInput(
                f"--classes {self.classes} for {spec.partition('#')[0]!r}",
                expected="a factory with an argument `classes` or `num_classes`",
                fix="pass the argument it has: PKG.MODULE:FACTORY,outputs=10",
            )
        return {takes[0]: self.classes, **named}

    def prepared(self, built: Built) -> nn.Module:
        """Return a network that prepares its images, as asked or else as its configuration says."""
        if self.normalize is None:
            normalization = built.normalization()
        else:
            normalization = parse_normalization(self.normalize)
        mean, std = normalization or (None, None)
        size = built.size if self.resize is None else (self.resize, self.resize)
        return prepared(built.network, Preparation(mean, std, size))


def _from_hub(
    build: Callable[..., Built], name: str, named: Mapping[str, Any], asked: _Asked
) -> nn.Module:
    """Return a library's network, with notice of what its configuration said."""
    built = build(name, named, asked.classes, asked.resize).check(name)
    network = asked.prepared(built)
    hooks = [hook for hook in network._forward_pre_hooks.values() if isinstance(hook, Preparation)]
    preparation = hooks[0] if hooks else Preparation()
    said = f"{name}: {built.classes} classes, images {preparation}"
    if built.left_out and asked.normalize is None and preparation.mean is None:
        said += f"; {built.left_out}"
    notice(said)
    return network


def _factory(place: str, name: str) -> Any:
    """Return the callable of this name in a module. Raises BadInput where there is none."""
    module = imported(place)
    factory = attribute_of(module, name)
    if factory is None and "." in name and attribute_of(module, name.partition(".")[0]):
        raise BadInput(
            f"{name!r}, a method or an attribute of something in {place}",
            expected="a callable of that module",
            fix="wrap it in a function of your own that builds the network and returns logits",
        )
    if factory is None:
        known = [
            n for n, value in vars(module).items() if callable(value) and not n.startswith("_")
        ]
        raise BadInput(
            f"{name!r}, unknown in {place}",
            expected="a callable of that module",
            fix=suggestion(name, known),
        )
    if isinstance(factory, nn.Module) or not callable(factory):
        raise BadInput(
            f"'{place}:{name}', a {type(factory).__name__}",
            expected="a callable that builds the network",
            fix="wrap it in a function that builds and returns the network",
        )
    return factory
