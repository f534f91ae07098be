"""Errors of bundles.

McdropError
└── BundleError
    ├── UnknownModel       there is no bundle of this name or version
    ├── InvalidBundle      a bundle is incomplete, was changed, or uses what bundles may not use
    └── NotExportable      ONNX cannot express a network
"""

from dropout_core.errors import McdropError


class BundleError(McdropError):
    """The base class of errors about bundles."""


class UnknownModel(BundleError):
    """There is no bundle of this name or version."""


class InvalidBundle(BundleError):
    """A bundle is incomplete, was changed, or uses what bundles may not use. It is never served."""


class NotExportable(BundleError):
    """ONNX cannot express a network. The torch backend can serve it."""
