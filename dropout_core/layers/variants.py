"""The table of variants that `mcdrop variants` and the README show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        names: Names of the classes, separated by commas.
        drops: What they drop.
        use: Where to use them.
        cost: Random draws in training.
        source: Papers.
    """

    names: str
    drops: str
    use: str
    cost: str
    source: str


VARIANTS = (
    Variant("Dropout", "units", "fully connected heads", "1 draw a unit", "Hinton 2012, Srivastava 2014"),
    Variant("SpatialDropout1d, SpatialDropout2d, SpatialDropout3d", "feature maps", "convolutions", "1 draw a channel",
            "Tompson 2015"),
    Variant("DropBlock1d, DropBlock2d", "square regions of feature maps", "later stages of convolutional nets",
            "1 draw a place of a block", "Ghiasi 2018"),
    Variant("DropPath, StochasticDepth", "residual branches", "deep residual nets, transformers",
            "1 draw a row; a dropped branch can be left out", "Huang 2016, Larsson 2017"),
    Variant("DropConnectLinear, DropConnectConv1d, DropConnectConv2d", "weights", "heads that overfit",
            "1 draw a weight and row", "Wan 2013"),
    Variant("GaussianDropout", "nothing: ×N(1, p/(1−p))", "as Dropout, no unit lost", "1 normal draw a unit",
            "Srivastava 2014 §10"),
    Variant("VariationalLinear, VariationalConv2d", "nothing: weights ×N(1, α), α learned", "rates per weight, pruning",
            "1 normal draw a unit", "Kingma 2015, Molchanov 2017"),
    Variant("ConcreteDropout, ConcreteSpatialDropout", "units, maps; p learned", "no rate to choose",
            "1 draw a unit, a channel", "Gal 2017"),
    Variant("AdaptiveDropout", "units of low activation", "wide hidden layers", "1 draw a unit", "Ba & Frey 2013"),
    Variant("EmbeddingDropout, WordDropout", "word types; tokens", "text", "1 draw a type, a token",
            "Gal 2016, Merity 2018"),
    Variant("LockedDropout", "features of a sequence", "between recurrent layers", "1 draw a feature",
            "Gal 2016, Merity 2018"),
    Variant("VariationalLSTM, VariationalGRU, VariationalRNN", "inputs, states and outputs of all steps", "sequences",
            "1 draw a unit; training by steps", "Gal 2016"),
    Variant("AttentionDropout, MultiheadAttention", "attention weights, light ones first", "transformers",
            "1 draw a weight", "Vaswani 2017"),
    Variant("DropEdge, DropNode, FeatureDropout", "edges; nodes; features of all nodes", "graph networks",
            "1 draw a pair, a node, a feature", "Rong 2020, Feng 2020, Zhu 2020"),
    Variant("GroupDropout", "given groups of units", "features that fail together", "1 draw a group",
            "Srivastava 2014"),
    Variant("ClassicDropout", "units; unscaled, × keep at test", "weights as the paper has them", "1 draw a unit",
            "Hinton 2012, Srivastava 2014"),
    Variant("AlphaDropout", "units, to SELU's floor", "self-normalising nets", "1 draw a unit", "Klambauer 2017"),
)  # fmt: skip
