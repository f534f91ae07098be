"""A dropout where there was none: what it does to the graph, to a sklearn classifier, and where it cannot be."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dropout_core.errors import CaptureError, InvalidInput, NoSite
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.from_onnx.add_dropout import add_dropout
from mcdrop_models.onnx.from_onnx.read import imported
from tests.support.onnx_models import built, draws, ran, replayed, sampled

_TEXT = """g (float[n, 4] x) => (float[n, 3] y) {
    [first] h = Gemm(x, w, b)  r = Relu(h)  [last] m = MatMul(r, v)  y = Softmax(m) }"""
PLAIN = built(_TEXT, {"w": (4, 6), "b": (6,), "v": (6, 3)})


@pytest.fixture(scope="module")
def classifier():
    """A trained MLPClassifier as skl2onnx writes it, some rows, and its own probabilities."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.neural_network import MLPClassifier

    rows, labels = load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        net = MLPClassifier((8,), max_iter=20, random_state=0).fit(rows, labels)
        model = to_onnx(net, rows[:1].astype(np.float32), options={id(net): {"zipmap": False}})
    return model.SerializeToString(), rows[::30].astype(np.float32), net.predict_proba(rows[::30])


@pytest.mark.parametrize(("before", "value"), [("last", "r"), ("m", "r"), ("head", "r"), ("first", "x"), ("y", "m")])
def test_the_dropout_is_before_the_node(before, value):
    content = add_dropout(PLAIN, before, 0.2)
    (site,) = imported(content).graph.sites
    assert (site.kind, site.rate, site.input.name) == ("dropout", 0.2, value)
    (node,) = (node for node in onnx.ModelProto.FromString(content).graph.node if node.op_type == "Dropout")
    weights = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.ModelProto.FromString(content).graph.initializer
    }
    assert weights[node.input[1]] == np.float32(0.2)
    assert weights[node.input[2]]


def test_only_the_named_node_reads_what_was_dropped():
    text = "g (float[n, 4] x) => (float[n, 4] y) { h = Tanh(x)  a = Neg(h)  b = Abs(h)  y = Add(a, b) }"
    rows = {"x": np.array([[0.1, -0.2, 0.3, 0.4]], np.float32)}
    network = imported(add_dropout(built(text), "b", 0.5))
    noise = {"noise.0": np.array([2.0, 0.0, 2.0, 0.0], np.float32).reshape(1, 1, 1, 1, 4)}
    wanted = -np.tanh(rows["x"]) + np.abs(np.tanh(rows["x"]) * noise["noise.0"].ravel())
    np.testing.assert_allclose(sampled(network, rows, noise, 1)[0], wanted, atol=1e-6)


def test_with_nothing_dropped_a_classifier_answers_as_sklearn_does(classifier):
    content, rows, probabilities = classifier
    network = imported(add_dropout(content, "head", 0.3), result="probabilities")
    ones = {"noise.0": np.ones((1, 1, 1, 1, 8), np.float32)}
    np.testing.assert_allclose(sampled(network, {"X": rows}, ones, 1)[0], probabilities, atol=1e-5)
    assert not any(node.domain for node in network.halves.suffix.graph.node)  # the label is not computed
    noise = draws(network, {"X": rows}, seed=1, passes=8, masks="shared", sampling="balanced")
    found = sampled(network, {"X": rows}, noise, 8)
    np.testing.assert_allclose(
        found, replayed(add_dropout(content, "head", 0.3), network, {"X": rows}, noise, 8, "probabilities"), atol=1e-5
    )
    assert found.std(0).max() > 0.01


def test_a_classifier_must_be_told_its_result_and_its_label_is_none(classifier):
    content = add_dropout(classifier[0], "head", 0.3)
    with pytest.raises(InvalidInput, match="the outputs label, probabilities; say which one"):
        imported(content)
    with pytest.raises(InvalidInput, match="no value 'proba'; its outputs are label, probabilities"):
        imported(content, result="proba")
    with pytest.raises(CaptureError, match=r"ArrayFeatureExtractor.* of ai.onnx.ml; only standard operators"):
        imported(content, result="label")
    with pytest.raises(NoSite, match="mcdrop add-dropout"):
        imported(classifier[0], result="probabilities")


def test_an_older_model_is_brought_to_an_opset_that_says_training():
    content = add_dropout(built(_TEXT, {"w": (4, 6), "b": (6,), "v": (6, 3)}, opset=11, ir=6), "last", 0.2)
    model = onnx.ModelProto.FromString(content)
    assert model.opset_import[0].version == 18
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    ones = {"noise.0": np.ones((1, 1, 1, 1, 6), np.float32)}
    found = sampled(imported(content), {"x": rows}, ones, 1)[0]
    np.testing.assert_allclose(found, ran(onnx.ModelProto.FromString(PLAIN), {"x": rows})["y"], atol=1e-6)


def test_names_stay_unique_when_a_node_gets_two():
    network = imported(add_dropout(add_dropout(PLAIN, "last", 0.2), "last", 0.4))
    assert [site.rate for site in network.graph.sites] == [0.2, 0.4]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_none(rate):
    with pytest.raises(InvalidInput, match="above 0 and below 1"):
        add_dropout(PLAIN, "last", rate)


def test_nodes_that_cannot_be():
    with pytest.raises(
        InvalidInput, match=r"no node .* 'nope'; the last ones are Gemm 'first', Relu 'r', MatMul 'last'"
    ):
        add_dropout(PLAIN, "nope", 0.2)
    with pytest.raises(InvalidInput, match="more than one node"):
        add_dropout(built(_TEXT.replace("first", "last"), {"w": (4, 6), "b": (6,), "v": (6, 3)}), "last", 0.2)
    text = f"g (float[n, 4] x) => (float[n, 4] y) {{ c = Neg(w)  i = Cast <to = {TensorProto.INT64}> (x)  j = Abs(i)"
    content = built(text + "  f = Cast <to = 1> (j)  y = Add(f, c) }", {"w": (4,)})
    with pytest.raises(InvalidInput, match="reads 'i', which is INT64; only floats"):
        add_dropout(content, "j", 0.2)
    with pytest.raises(InvalidInput, match="no node that depends on the inputs"):
        add_dropout(content, "c", 0.2)
    with pytest.raises(InvalidInput, match="no node that depends on the inputs of the ONNX model is named 'head'"):
        add_dropout(content, "head", 0.2)
    with pytest.raises(InvalidBundle, match="no ONNX model"):
        add_dropout(b"no model", "head", 0.2)
