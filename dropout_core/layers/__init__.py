"""Every dropout there is: one family a file, a pure function and a thin module for each variant."""

from dropout_core.layers.adaptive import AdaptiveDropout as AdaptiveDropout
from dropout_core.layers.concrete import ConcreteDropout as ConcreteDropout
from dropout_core.layers.concrete import ConcreteSpatialDropout as ConcreteSpatialDropout
from dropout_core.layers.connect import DropConnectConv1d as DropConnectConv1d
from dropout_core.layers.connect import DropConnectConv2d as DropConnectConv2d
from dropout_core.layers.connect import DropConnectLinear as DropConnectLinear
from dropout_core.layers.embedding import EmbeddingDropout as EmbeddingDropout
from dropout_core.layers.embedding import WordDropout as WordDropout
from dropout_core.layers.gaussian import GaussianDropout as GaussianDropout
from dropout_core.layers.spatial import SpatialDropout1d as SpatialDropout1d
from dropout_core.layers.spatial import SpatialDropout2d as SpatialDropout2d
from dropout_core.layers.spatial import SpatialDropout3d as SpatialDropout3d
from dropout_core.layers.standard import AlphaDropout as AlphaDropout
from dropout_core.layers.standard import Dropout as Dropout
from dropout_core.layers.structured import GroupDropout as GroupDropout
from dropout_core.layers.variational import VariationalConv2d as VariationalConv2d
from dropout_core.layers.variational import VariationalLinear as VariationalLinear
