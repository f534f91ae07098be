"""Where a server computes."""

import torch

from dropout_core.errors import InvalidInput


def resolve_device(setting: str) -> str:
    """The device that auto, cpu, cuda or cuda:N means: "auto" is a GPU where there is one.

    On a GPU convolutions keep all of float32's digits: with TF32 they would answer the stored probes otherwise.
    Raises InvalidInput where a GPU is asked for that is not there.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and not found):
        return "cpu"
    if not found:
        raise InvalidInput(f"the device is {setting}, and torch finds no GPU; say cpu, or install torch's CUDA build.")
    number = int(setting.partition(":")[2] or 0)
    if number >= found:
        raise InvalidInput(f"the device is {setting}; torch finds cuda:0 to cuda:{found - 1}: say one of those.")
    torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{number}"
