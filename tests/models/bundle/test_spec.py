from dataclasses import FrozenInstanceError, fields
from typing import get_type_hints

import pytest

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from mcdrop_models.bundle.spec import BundleFields, BundleSpec, OnnxBundleFields
from mcdrop_models.errors import UnknownModel


def test_the_keywords_of_publish_are_the_fields_of_the_spec():
    assert get_type_hints(BundleFields) == get_type_hints(BundleSpec)


def test_an_onnx_file_decides_its_own_axes_and_backend():
    assert set(get_type_hints(BundleFields)) - set(get_type_hints(OnnxBundleFields)) == {
        "class_axis",
        "dynamic",
        "backend",
    }


def test_every_field_is_described():
    assert all(field.metadata["description"].endswith(".") for field in fields(BundleSpec))


@pytest.mark.parametrize(
    ("task", "output"), [("classification", "logits"), ("multilabel", "multilabel_logits"), ("regression", "mean")]
)
def test_each_task_has_a_default_output(task, output):
    assert BundleSpec(name="net", task=task).output_kind == output


def test_the_pass_options_are_those_of_the_spec():
    assert BundleSpec(name="net", task="regression").pass_options == PassOptions(32, 0)
    spec = BundleSpec(name="net", task="regression", passes=8, seed=3, sampling="iid", masks="independent")
    assert spec.pass_options == PassOptions(8, 3, sampling="iid", masks="independent")


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"name": "../net"}, UnknownModel, r"'\.\./net'"),
        ({"task": "ranking"}, InvalidInput, "the task is 'ranking'; choose one of classification, multilabel, regr"),
        ({"output": "odds"}, InvalidInput, "the output is 'odds'; choose one of logits, probabilities"),
        ({"output": "mean"}, InvalidInput, "a classification model cannot have the output mean; choose one of logits"),
        ({"backend": "tensorflow"}, InvalidInput, "the backend is 'tensorflow'; choose one of torch, onnx, auto"),
        ({"passes": 0}, InvalidInput, "passes is 0"),
        ({"seed": -1}, InvalidInput, "the seed is -1"),
        ({"branches": 3}, InvalidInput, "branches is 3"),
    ],
)
def test_a_value_that_no_bundle_has_is_refused_at_once(changes, error, reason):
    with pytest.raises(error, match=reason):
        BundleSpec(**{"name": "net", "task": "classification", **changes})


def test_a_spec_does_not_change():
    with pytest.raises(FrozenInstanceError):
        BundleSpec(name="net", task="regression").name = "other"
