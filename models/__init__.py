"""Networks as published, versioned bundles: no pickle, no user code at load."""

from models.predictor import Predictor as Predictor
from models.publish import publish as publish
from models.repository import Repository as Repository
