"""The device that a server computes on."""

import torch

from dropout_core.errors import InvalidInput


def resolve_device(setting: str) -> str:
    """Return the device that a setting means.

    On a GPU, convolutions keep the full precision of float32: with TF32 they would not reproduce the stored probes.

    Args:
        setting: auto, cpu, cuda or cuda:N. `auto` is a GPU if torch finds one.

    Returns:
        The device that a setting means.

    Raises:
        InvalidInput: torch does not find that GPU.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and not found):
        return "cpu"
    if not found:
        raise InvalidInput(
            f"the device is {setting}, but torch finds no GPU. Set cpu, or install a build of torch with CUDA."
        )
    number = int(setting.partition(":")[2] or 0)
    if number >= found:
        raise InvalidInput(f"the device is {setting}, but torch finds cuda:0 to cuda:{found - 1}. Set one of those.")
    torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{number}"
