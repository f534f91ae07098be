import importlib.util

import pytest
import torch
from torch import nn

from dropout_core.errors import UnknownRandomness
from dropout_core.mc.capture import capture
from dropout_core.mc.program import Rows

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


def test_a_normal_draw_is_a_site_without_a_rate():
    class Noisy(nn.Module):
        def forward(self, x):
            return x * (1 + torch.randn_like(x))

    (site,) = capture(Noisy(), torch.ones(2, 3)).graph.sites
    assert (site.kind, site.rate, site.rows) == ("normal", 0.0, Rows(0))


def test_a_normal_draw_of_another_type_than_its_template_is_refused():
    class Noisy(nn.Module):
        def forward(self, x):
            return x * torch.randn_like(x, dtype=torch.float64)

    with pytest.raises(UnknownRandomness, match=r"aten\.randn_like\.default"):
        capture(Noisy(), torch.ones(2, 3))


def test_a_pattern_like_alpha_dropout_with_other_constants_is_a_mask_and_no_alpha_dropout():
    class Floored(nn.Module):
        def forward(self, x):
            kept = torch.empty_like(x).bernoulli_(0.5)
            return x * (kept * 0.86) + ((kept - 1) * 1.5 + 0.4)

    (site,) = capture(Floored(), torch.ones(2, 3)).graph.sites
    assert (site.kind, site.rate) == ("unscaled", 0.5)
