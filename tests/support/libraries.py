"""Libraries of networks, imported where they are installed."""

import pytest
import torch


def library(name):
    """Import a library that needs torchvision, or skip the test.

    A torchvision compiled for another kind of torch lacks its operators, and does not import. No
    classifier uses them, so their names are defined first where they are missing.
    """
    if name in ("timm", "torchvision"):
        for operator in ("nms", "qnms"):
            _define(operator)
    return pytest.importorskip(name)


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
