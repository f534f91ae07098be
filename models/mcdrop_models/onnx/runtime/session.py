"""onnxruntime: sessions within the bounds of an operator, and its errors as ours.

onnxruntime has one word for most failures; what matters is told by its message: memory that ran out (an engine then
tries half as many rows), and a number that a table has no row for.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as states
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.runtime.options import Runtime

_log = logging.getLogger(__name__)
_ERRORS = tuple(error for error in vars(states).values() if isinstance(error, type) and issubclass(error, Exception))
_NO_MEMORY = (
    "Failed to allocate memory",
    "Available memory of",
    "out of memory",
    "CUDA failure 2",
    "bad_alloc",
    "bad allocation",
)
_NO_ENTRY = "indices element out of data bounds"
_registered: set[int] = set()
_held: WeakKeyDictionary["Session", int] = WeakKeyDictionary()
_lock = threading.Lock()


class Session:
    """One ONNX model, ready to run. Serves many threads. Raises InvalidBundle where onnxruntime refuses it."""

    def __init__(self, content: bytes, runtime: Runtime, name: str, *, observing: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it logs it also raises
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other models wait for the cores
        if observing:  # what is to be seen may not be fused away
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if runtime.max_bytes is not None:
            _register(runtime.max_bytes)
            self._hold(len(content), runtime.max_bytes, name)
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=_providers(runtime.device))
        except _ERRORS as error:
            raise InvalidBundle(f"onnxruntime refuses {name}: {_reason(error)}") from error
        self.nbytes = len(content)
        self.inputs = tuple(one.name for one in self._session.get_inputs())
        self.outputs = tuple(one.name for one in self._session.get_outputs())

    def _hold(self, nbytes: int, max_bytes: int, name: str) -> None:
        """Count the weights of a model, which onnxruntime takes from the same bytes without asking.

        Raises InvalidBundle where all of them would leave less than half: past the bound, there would be none.
        """
        with _lock:
            held = sum(_held.values()) + nbytes
            if held > max_bytes // 2:
                raise InvalidBundle(
                    f"{name} has {nbytes} bytes, and with what is loaded {held} of the {max_bytes} that onnxruntime "
                    "may use; at most half may be weights. Raise MCDROP_ONNX_MAX_BYTES, or load fewer models."
                )
            _held[self] = nbytes

    def run(self, values: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The outputs of some inputs, by name. Raises InvalidInput, IndexError, or torch.OutOfMemoryError."""
        feeds = {name: np.ascontiguousarray(values[name].detach().cpu().numpy()) for name in self.inputs}
        names = self.outputs if wanted is None else tuple(wanted)
        try:
            found = self._session.run(names, feeds)
        except _ERRORS as error:
            raise _ours(error) from error
        return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(names, found, strict=True)}


def _providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """What onnxruntime is to compute with, the first choice first."""
    processor = ("CPUExecutionProvider", dict[str, str]())
    if device == "cpu":
        return [processor]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        _log.warning("this onnxruntime knows no CUDA; install onnxruntime-gpu. The processor computes instead.")
        return [processor]
    return [("CUDAExecutionProvider", {"device_id": str(torch.device(device).index or 0)}), processor]


def _register(max_bytes: int) -> None:
    """One arena for all sessions of the process; onnxruntime knows no way to change it later."""
    with _lock:
        if max_bytes in _registered:
            return
        if _registered:
            raise InvalidInput(
                f"onnxruntime was bounded to {min(_registered)} bytes before, and {max_bytes} are asked for now; a "
                "process has one bound."
            )
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        # grow by as much as is asked for, not to the next power of two
        bounds = {"max_mem": max_bytes, "arena_extend_strategy": 1}
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(bounds))
        _registered.add(max_bytes)


def _ours(error: Exception) -> Exception:
    text = str(error)
    if any(sign in text for sign in _NO_MEMORY):
        return torch.OutOfMemoryError(_reason(error))
    if _NO_ENTRY in text:
        return IndexError(f"index outside of a table: {text.rpartition('idx=')[2].strip()}")
    return InvalidInput(f"onnxruntime cannot compute this: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Without the places in onnxruntime's own sources."""
    return " ".join(str(error).rpartition("Status Message:")[2].split()) or type(error).__name__
