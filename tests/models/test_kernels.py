"""What a CPU's kernels cannot do, on a CPU that can: oneDNN is told to be an older one."""

import os
import subprocess
import sys

import pytest
import torch
from support.networks import data, network

from isthmus.models import kernels
from isthmus.models.forward import outputs
from isthmus.models.precision import decided_precision
from isthmus.runs.notices import Notice
from isthmus.training import Training, fit, with_decided_precision

CPU = torch.device("cpu")

OLDER = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}

LSTM_IN_BF16 = """
import torch
from torch import nn
from isthmus import Data, fit
from isthmus.curves import connect

class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x.flatten(1, 2))[0][:, -1])

nets = [Rows() for _ in range(2)]
data = Data(torch.rand(20, 3, 6, 6), torch.arange(20) % 2, 2)
for net in nets:
    history = fit(net, data, steps=2, lr=0.01, batch_size=10, precision="bf16")
    print(history.precision)
connect(*nets, data, steps=2, precision="bf16")
"""


def test_an_lstm_trains_in_bf16_on_a_cpu_that_has_no_kernel_for_it():
    command = [sys.executable, "-c", LSTM_IN_BF16]
    done = subprocess.run(command, env=OLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    assert done.stdout.split() == ["fp32", "fp32"], "the history says what was computed in"
    assert "cannot run an LSTM in bf16" in done.stderr


@pytest.fixture
def lacking(monkeypatch):
    """Let this CPU be one whose kernels have no LSTM in bf16."""
    monkeypatch.setattr(kernels, "_lstm_in_bf16", lambda: False)


@pytest.mark.usefixtures("lacking")
def test_only_a_network_without_kernels_is_computed_in_fp32():
    x, lstm, linear = data(4).x, network("lstm"), network("linear")
    with pytest.warns(Notice, match="LSTM in bf16"):
        assert decided_precision(lstm, x, 4, CPU, "bf16") == "fp32"
    training = Training(steps=1, lr=0.01, device="cpu", precision="bf16")
    recorded = [with_decided_precision(training, net, data(4)).precision for net in (lstm, linear)]
    assert recorded == ["fp32", "bf16"], "as reports record it"
    assert decided_precision(linear, x, 4, CPU, "bf16") == "bf16"
    assert torch.equal(outputs(lstm, x, precision="bf16"), outputs(lstm, x, precision="fp32"))
    assert not torch.equal(
        outputs(linear, x, precision="bf16"), outputs(linear, x, precision="fp32")
    )


@pytest.mark.usefixtures("lacking")
def test_bf16_by_the_environment_is_fp32_there_too(monkeypatch):
    monkeypatch.setenv("ISTHMUS_PRECISION", "bf16")
    with pytest.warns(Notice, match="LSTM in bf16"):
        history = fit(network("lstm"), data(8), steps=1, lr=0.01, batch_size=8)
    assert history.precision == "fp32"
