import importlib.util

import pytest
import torch

from dropout_core.errors import UnknownRandomness
from dropout_core.mc.capture import capture

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x * torch.rand(3)
"""


def test_the_line_is_named_also_in_a_folder_called_torch(tmp_path):
    file = tmp_path / "torch" / "net.py"
    file.parent.mkdir()
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("net_in_torch", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    with pytest.raises(UnknownRandomness, match=rf"aten\.rand\.default at {file}:7 "):
        capture(module.Net(), torch.ones(2, 3))
