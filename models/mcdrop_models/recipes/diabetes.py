"""Progress of diabetes: scikit-learn's 442 patients, ten raw features, a score after one year of 25 to 346."""

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor

from dropout_core.predict import predict
from mcdrop_models.architectures.mlp import GaussianMLP, gaussian_nll
from mcdrop_models.recipes.training import OnEpoch, Trained, fit

_EPOCHS = 60
_SEED = 0


def train(on_epoch: OnEpoch) -> Trained:
    """Train on four fifths, measure on the rest in the score's own unit. The caller's randomness is left alone."""
    x, y, x_test, y_test = _data()
    shift, scale = y.mean(), y.std()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = GaussianMLP(x.mean(0), x.std(0))
        fit(model, x, (y - shift) / scale, gaussian_nll, _EPOCHS, weight_decay=5e-2, on_epoch=on_epoch)
    estimate = predict(model, x_test, output="mean_and_log_variance").rescaled(scale[None], shift[None])
    error = estimate.mean[:, 0] - y_test
    covered = error.abs() <= 1.96 * estimate.std[:, 0]
    metrics = {
        "rmse": float(error.square().mean().sqrt()),
        "coverage_of_95_percent": float(covered.double().mean()),
    }
    return Trained(
        model=model,
        example=x_test[:8],
        task="regression",
        output="mean_and_log_variance",
        output_scaling=((float(scale),), (float(shift),)),
        metrics={name: round(value, 4) for name, value in metrics.items()},
    )


def _data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_diabetes(scaled=False)
    split = train_test_split(
        data.data.astype(np.float32), data.target.astype(np.float32), test_size=0.2, random_state=_SEED
    )
    x, x_test, y, y_test = map(torch.from_numpy, split)
    return x, y, x_test, y_test
