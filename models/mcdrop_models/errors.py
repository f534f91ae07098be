"""Errors of bundles.

McdropError
└── BundleError
    ├── UnknownModel       no such name or version
    ├── InvalidBundle      a bundle that is half-written, tampered with, or asks for what is not allowed
    └── NotExportable      a network that ONNX cannot say
"""

from dropout_core.errors import McdropError


class BundleError(McdropError):
    """Something about a published bundle."""


class UnknownModel(BundleError):
    """No such name or version."""


class InvalidBundle(BundleError):
    """A bundle that is half-written, tampered with, or asks for what is not allowed. It is never served."""


class NotExportable(BundleError):
    """A network that ONNX cannot say. The torch backend serves it."""
