"""Every dropout there is: one family a file, a pure function and a thin module for each variant."""

from dropout_core.layers.connect import DropConnectConv1d as DropConnectConv1d
from dropout_core.layers.connect import DropConnectConv2d as DropConnectConv2d
from dropout_core.layers.connect import DropConnectLinear as DropConnectLinear
from dropout_core.layers.gaussian import GaussianDropout as GaussianDropout
from dropout_core.layers.spatial import SpatialDropout1d as SpatialDropout1d
from dropout_core.layers.spatial import SpatialDropout2d as SpatialDropout2d
from dropout_core.layers.spatial import SpatialDropout3d as SpatialDropout3d
from dropout_core.layers.standard import AlphaDropout as AlphaDropout
from dropout_core.layers.standard import Dropout as Dropout
from dropout_core.layers.structured import GroupDropout as GroupDropout
