"""Devices and precision: what `auto` stands for, and the variable that stands in for hardware."""

import pytest
import torch
from support.refusals import refused

from isthmus.runs import fast_precision
from isthmus.runs.devices import chosen_precision, seconds_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("told", ["fp32", "bf16"])
def test_auto_can_be_told_what_the_hardware_offers(monkeypatch, told):
    monkeypatch.setenv("ISTHMUS_PRECISION", told)
    assert fast_precision(CPU) == chosen_precision(CPU, "auto") == told
    assert chosen_precision(CPU, "fp32") == "fp32", "only auto is resolved"


def test_without_the_variable_the_hardware_decides(monkeypatch):
    monkeypatch.delenv("ISTHMUS_PRECISION")
    native = fast_precision(CPU)
    assert native in ("fp32", "bf16")
    monkeypatch.setenv("ISTHMUS_PRECISION", "")
    assert fast_precision(CPU) == native


@pytest.mark.parametrize("told", ["auto", "BF16", "fp16"])
def test_any_other_value_of_the_variable_is_refused(monkeypatch, told):
    monkeypatch.setenv("ISTHMUS_PRECISION", told)
    refused(lambda: fast_precision(CPU), f"ISTHMUS_PRECISION={told}")
    assert chosen_precision(CPU, "fp32") == "fp32"


def test_work_is_timed_from_an_idle_device_until_it_is_done(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(device.type))
    assert seconds_of(lambda: order.append("work"), torch.device("cuda")) >= 0
    assert order == ["cuda", "work", "cuda"]
    seconds_of(lambda: order.append("work"), torch.device("cpu"))
    assert order[3:] == ["work"]
