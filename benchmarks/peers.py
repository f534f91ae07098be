"""What other libraries do for T passes: baal 2.1.0 and torch-uncertainty 0.13.0, as their documentation calls them.

Each takes a network in eval mode, which it may change, and gives a function from (x [B, *F], T) to outputs [T, B, C].
torch-uncertainty's file is loaded by itself: its package asks for lightning and torchvision, which it does not use.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

Run = Callable[[Tensor, int], Tensor]


def baal_loop(model: nn.Module) -> Run:
    """T calls on one batch."""
    return _baal(model, replicated=False)


def baal_replicated(model: nn.Module) -> Run:
    """One call on T copies of the batch: baal's default."""
    return _baal(model, replicated=True)


def baal_caching(model: nn.Module) -> Run:
    """T calls that skip linear layers and convolutions whose input is the last one's.

    Caches are emptied before each run: a server sees new rows, not those of the call before.
    """
    caching = importlib.import_module("baal.bayesian.caching_utils")
    run = _baal(model, replicated=False, wrap=caching.MCCachingModule)
    caches: list[Any] = []

    def fresh(x: Tensor, passes: int) -> Tensor:
        for cache in caches:
            cache._memory_input = cache._memory_output = None
        return run(x, passes)

    caches += [module for module in model.modules() if isinstance(module, caching.LRUCacheModule)]
    return fresh


def uncertainty_batch(model: nn.Module) -> Run:
    """One call on T copies of the batch: torch-uncertainty's default."""
    return _uncertainty(model, on_batch=True)


def uncertainty_loop(model: nn.Module) -> Run:
    """T calls on one batch."""
    return _uncertainty(model, on_batch=False)


BAAL = {"baal loop": baal_loop, "baal replicated": baal_replicated, "baal caching": baal_caching}
UNCERTAINTY = {"torch-uncertainty batch": uncertainty_batch, "torch-uncertainty loop": uncertainty_loop}


def missing() -> dict[str, str]:
    """The libraries that cannot be used here, and why."""
    found: dict[str, str] = {}
    for library, load in (("baal", _load_baal), ("torch-uncertainty", _load_uncertainty)):
        try:
            load()
        except ImportError as error:
            found[library] = str(error)
    return found


def installed() -> dict[str, Callable[[nn.Module], Run]]:
    """The methods of the libraries that are here, by name."""
    absent = missing()
    libraries = {"baal": BAAL, "torch-uncertainty": UNCERTAINTY}
    return {name: method for library, own in libraries.items() if library not in absent for name, method in own.items()}


def _baal(model: nn.Module, replicated: bool, wrap: Callable[[nn.Module], nn.Module] = lambda model: model) -> Run:
    dropout, wrapper = _load_baal()
    arguments = wrapper.TrainingArgs(use_cuda=False, replicate_in_memory=replicated)
    wrapped = wrapper.ModelWrapper(wrap(dropout.MCDropoutModule(model)), arguments)
    wrapped.eval()

    def run(x: Tensor, passes: int) -> Tensor:
        outputs: Tensor = wrapped.predict_on_batch(x, iterations=passes)
        return outputs.movedim(-1, 0)

    return run


def _uncertainty(model: nn.Module, on_batch: bool) -> Run:
    wrapped = _load_uncertainty().mc_dropout(model, num_estimators=1, on_batch=on_batch).eval()

    def run(x: Tensor, passes: int) -> Tensor:
        wrapped.num_estimators = passes
        outputs: Tensor = wrapped(x)
        return outputs.view(passes, len(x), -1)

    return run


def _load_baal() -> tuple[ModuleType, ModuleType]:
    return importlib.import_module("baal.bayesian.dropout"), importlib.import_module("baal.modelwrapper")


def _load_uncertainty() -> Any:
    package = importlib.util.find_spec("torch_uncertainty")
    if package is None or not package.submodule_search_locations:
        raise ImportError("No module named 'torch_uncertainty'")
    file = Path(package.submodule_search_locations[0]) / "methods" / "mc_dropout.py"
    spec = importlib.util.spec_from_file_location("torch_uncertainty_mc_dropout", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
