"""Publishes networks as versioned bundles, and loads them without pickle or user code."""

from mcdrop_models.bundle.repository import Repository as Repository
from mcdrop_models.loading.predictor import Predictor as Predictor
from mcdrop_models.publishing.torch import publish as publish
