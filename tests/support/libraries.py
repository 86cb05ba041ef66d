"""Libraries of networks, imported where they are installed."""

from importlib import import_module

import pytest
import torch

from isthmus.runs.wording import first_line

_NETWORKS = {
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers.models.vit.modeling_vit",
}
"""Libraries whose networks need torchvision, and what imports it: transformers alone does not."""


def library(name):
    """Import a library, or skip the test with the reason why that fails.

    A torchvision compiled for another kind of torch lacks its operators, and does not import. No
    classifier uses them, so their names are defined first where they are missing.
    """
    if name in _NETWORKS:
        for operator in ("nms", "qnms"):
            _define(operator)
    try:
        import_module(_NETWORKS.get(name, name))
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {first_line(error)}")


def _define(operator):
    try:
        import torchvision.extension  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _LIBRARIES.append(torch.library.Library("torchvision", "FRAGMENT"))
        _LIBRARIES[-1].define(operator + signature)


_LIBRARIES = []
"""Definitions last as long as these."""
