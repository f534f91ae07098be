"""Every error of the core, as a tree.

McdropError
├── CaptureError            the model cannot become a Program
│   ├── NoSite              nothing random: every pass would agree
│   ├── UnknownRandomness   a random operator the engine has no rule for
│   ├── HostRandomness      random numbers drawn outside torch's graph, frozen at capture
│   └── DataDependent       Python control flow on the values of a tensor
├── VerificationError       the Program is not the model, or its rows or passes are not what they should be
│   ├── NotTheModel         with noise off the outputs differ from the model's own
│   ├── CoupledRows         a row's answer depends on other rows
│   └── NoVariance          the passes agree
├── InvalidInput            what the caller sent does not fit
├── UnknownMeasure          the task has no such measure
└── NonFiniteOutput         the network answered NaN or infinity

Each message says what came, what is allowed, and what to do.
"""


class McdropError(Exception):
    """The root: everything mcdrop raises on purpose."""


class CaptureError(McdropError):
    """The model cannot become a Program."""


class NoSite(CaptureError):
    """Nothing in the model is random: every pass would agree."""


class UnknownRandomness(CaptureError):
    """The model has a random operator that the engine has no rule for."""


class HostRandomness(CaptureError):
    """The forward draws random numbers outside torch's graph; capture would freeze them."""


class DataDependent(CaptureError):
    """The forward's Python control flow depends on the values of a tensor."""


class VerificationError(McdropError):
    """The Program is not what the model promises."""


class NotTheModel(VerificationError):
    """With noise off the Program's outputs differ from the model's own."""


class CoupledRows(VerificationError):
    """A row's answer depends on the other rows of its batch."""


class NoVariance(VerificationError):
    """The passes agree: there is no uncertainty to report."""


class InvalidInput(McdropError, ValueError):
    """What the caller sent does not fit."""


class UnknownMeasure(McdropError, AttributeError):
    """The task has no such measure."""


class NonFiniteOutput(McdropError):
    """The network answered NaN or infinity."""
