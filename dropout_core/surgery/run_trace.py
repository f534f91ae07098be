"""The flow of a network by running an example: inside torch's own modules, too, and with the axes of every value."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from dropout_core.surgery.flow import Flow, ModuleCall, Sources, callers_line, in_mode
from dropout_core.surgery.roles import Role, has_weights, role_of, role_of_function


def trace_by_running(model: nn.Module, example: Any) -> Flow:
    """The flow of a network in eval mode on an example, a tensor or a tuple of arguments. It is left as it was."""
    recorder, handles = _Recorder(), []
    for path, module in model.named_modules():
        role = role_of(module)
        if role is not None and (role != "weights" or _is_one_layer(module)):
            handles.append(module.register_forward_pre_hook(recorder.enter))
            handles.append(module.register_forward_hook(recorder.leave(path, role), with_kwargs=True))
    forked = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    try:
        with torch.inference_mode(False), torch.enable_grad(), forked, in_mode(model, False):
            # The forward may write into its input.
            copies = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, example)
            with recorder:
                output = model(*(copies if isinstance(copies, tuple) else (copies,)))
        recorder.flow.output = recorder.sources(output)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.flow


class _Recorder(TorchFunctionMode):
    """Notes the calls of modules, by hooks, and of functions outside these.

    What a call returns is cut off from the graph of autograd, so that this graph ends at the calls a value comes from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow()
        self._depth = 0
        # By the id of a tensor without history: the tensor, held so that no other one gets its id, and its call.
        self._cut: dict[int, tuple[Tensor, int]] = {}

    def enter(self, *_: Any) -> None:
        """A layer begins: its functions are its own."""
        self._depth += 1

    def leave(self, path: str, role: Role) -> Callable[..., Any]:
        """A hook for the end of a layer."""

        def left(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self._depth -= 1
            return self._noted(path, module, role, (args, kwargs), output)

        return left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        constant = any(isinstance(each, nn.Parameter) for each in args)
        role = "weights" if has_weights(name, constant) else role_of_function(name)
        if role is None or self._depth > 0:
            return output
        return self._noted(callers_line(), name, role, (args, kwargs), output)

    def sources(self, values: Any) -> Sources:
        """The calls that tensors anywhere in these values come from."""
        found: Sources = {}
        front = [value.grad_fn for value in tree_leaves(values) if isinstance(value, Tensor)]
        seen = set[Any]()
        while front:
            made = front.pop()
            if made is not None and made not in seen:
                seen.add(made)
                front += [before for before, _ in made.next_functions]
                tensor, number = self._cut.get(id(getattr(made, "variable", None)), (None, 0))
                if tensor is not None:
                    found[number] = True
        return found

    def _noted(self, place: str, what: nn.Module | str, role: Role, inputs: Any, output: Any) -> Any:
        tensors = [each for each in tree_leaves(output) if isinstance(each, Tensor)]
        number = len(self.flow.calls)
        self.flow.calls.append(
            ModuleCall(place, what, role, self.sources(inputs), tensors[0].dim() if tensors else None)
        )
        return tree_map(lambda value: self._cut_off(value, number), output)

    def _cut_off(self, value: Any, number: int) -> Any:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        tensor = value.detach().requires_grad_()
        self._cut[id(tensor)] = (tensor, number)
        # The forward may write into it, but not into a tensor without history.
        return tensor.clone()


def _is_one_layer(module: nn.Module) -> bool:
    """Whether a module with weights is one layer, not a network of layers that run."""
    if isinstance(module, nn.Linear | _ConvNd | nn.MultiheadAttention | nn.RNNBase):
        return True
    return not any(True for child in module.children() for _ in child.parameters())
