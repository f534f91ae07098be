"""What an exported ensemble answers, in two runtimes, beside an estimate of the engine's."""

import numpy as np
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator

LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]
CLOSE = 1e-5


def answers(model, x, level="ORT_ENABLE_ALL"):
    """The measures by name, by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return _named(model, session.run(None, _fed(model, x)))


def reference_answers(model, x):
    """The measures by name, by the reference of the standard."""
    return _named(model, ReferenceEvaluator(model).run(None, _fed(model, x)))


def assert_are(found, estimate):
    """The answers are measures of an estimate."""
    assert set(found) <= set(estimate.measures)
    for name, values in found.items():
        wanted = estimate.measure(name).numpy()
        assert values.shape == wanted.shape, name
        np.testing.assert_allclose(values, wanted, rtol=CLOSE, atol=CLOSE, err_msg=name)


def drawn(*shape, seed=0):
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _fed(model, x):
    return {model.graph.input[0].name: x.numpy()}


def _named(model, found):
    return dict(zip((one.name for one in model.graph.output), found, strict=True))
