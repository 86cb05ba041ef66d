"""The options that say which network a checkpoint is of."""

from __future__ import annotations

from dataclasses import dataclass

from cyclopts import Parameter

from isthmus.cli.options.values import Whole


@Parameter(name="*")
@dataclass(frozen=True)
class ModelSpec:
    """Which network a checkpoint is of, and how images are prepared for it.

    :param model: What builds the network: PKG.MODULE:FACTORY or PKG.MODULE:FACTORY,width=8 for a
        callable of yours; timm:NAME, torchvision:NAME or hf:ID_OR_FOLDER for one of these
        libraries, of which no code but their own is run.
    :param classes: Number of classes; by default what the factory or the configuration says.
    :param resize: Resize images to this side first; by default only where the network takes one
        size.
    :param normalize: imagenet, cifar10, none, or the mean and then the standard deviation of each
        channel (0.5,0.25); by default what a library's configuration says, and nothing for a
        factory. It is applied in front and never written into a checkpoint.
    """

    model: str
    classes: Whole | None = None
    resize: Whole | None = None
    normalize: str | None = None

    @property
    def spec(self) -> str:
        """The text that `model_factory` reads."""
        names = ("classes", "resize", "normalize")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        words = ";".join(f"{name}={value}" for name, value in given.items())
        return f"{self.model}#{words}" if words else self.model
