import inspect
import pydoc

from torch import nn

from dropout_core import layers
from dropout_core.layers.variants import VARIANTS
from tests.support.cases import CASES

NAMES = [name for variant in VARIANTS for name in variant.names.split(", ")]
CLASSES = {name for name, value in vars(layers).items() if inspect.isclass(value) and issubclass(value, nn.Module)}


def test_every_layer_is_in_one_row_of_the_table():
    assert sorted(NAMES) == sorted(CLASSES)


def test_every_layer_is_under_the_laws():
    assert {case.name.partition(",")[0] for case in CASES} == CLASSES


def test_every_layer_says_where_it_stands_in_the_literature():
    for name in CLASSES:
        text = inspect.getdoc(getattr(layers, name))
        assert "References:" in text or "otherwise like" in text, name


def test_the_documentation_of_every_layer_can_be_shown():
    for name in CLASSES:
        assert name in pydoc.render_doc(getattr(layers, name))
