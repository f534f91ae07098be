import pytest
import torch

from dropout_core.errors import InvalidInput
from mcdrop.inference.device import resolve_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused():
    assert (resolve_device("auto"), resolve_device("cpu")) == ("cpu", "cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InvalidInput, match=f"the device is {name}, but torch finds no GPU"):
            resolve_device(name)


def test_of_two_gpus_the_first_is_taken_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    assert resolve_device("cpu") == "cpu"
    assert torch.backends.cudnn.allow_tf32
    found = {name: resolve_device(name) for name in ("auto", "cuda", "cuda:1")}
    assert found == {"auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(InvalidInput, match="the device is cuda:2, but torch finds cuda:0 to cuda:1"):
        resolve_device("cuda:2")
