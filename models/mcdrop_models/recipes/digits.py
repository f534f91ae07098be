"""Handwritten digits: scikit-learn's 1797 images of 8×8 pixels, 0 to 16, in ten classes."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from dropout_core.predict import predict
from mcdrop_models.architectures.cnn import SmallCNN
from mcdrop_models.recipes.training import Labelled, OnEpoch, Trained, fit

_EPOCHS = 40
_SEED = 0
_NUM_CLASSES = 10
_WEIGHT_DECAY = 1e-2


def test_images() -> tuple[Tensor, Tensor]:
    """The held-out images [360, 8, 8] and their classes [360]."""
    return _data()[2:]


def labelled() -> Labelled:
    """Everything with its classes, and the untrained network, for those who train on some of it."""
    return Labelled(*_data(), num_classes=_NUM_CLASSES, network=_network, weight_decay=_WEIGHT_DECAY)


def train(on_epoch: OnEpoch) -> Trained:
    """Train on four fifths, measure on the rest. The caller's randomness is left alone."""
    x, y, x_test, y_test = _data()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = _network()
        fit(model, x, y, nn.CrossEntropyLoss(), _EPOCHS, weight_decay=_WEIGHT_DECAY, on_epoch=on_epoch)
    probs = predict(model, x_test).mean
    accuracy = (probs.argmax(-1) == y_test).double().mean()
    nll = -probs[torch.arange(len(y_test)), y_test].log().mean()
    return Trained(
        model=model,
        example=x_test[:8],
        task="classification",
        output="logits",
        labels=tuple(map(str, range(_NUM_CLASSES))),
        metrics={"accuracy": round(float(accuracy), 4), "nll": round(float(nll), 4)},
    )


def _network() -> SmallCNN:
    return SmallCNN((8, 8), num_classes=_NUM_CLASSES, brightest=16.0)


def _data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_digits()
    split = train_test_split(
        data.images.astype(np.float32), data.target, test_size=0.2, random_state=_SEED, stratify=data.target
    )
    x, x_test, y, y_test = map(torch.from_numpy, split)
    return x, y, x_test, y_test
