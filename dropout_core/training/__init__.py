"""Drop probabilities that change during training: one object that drives any layers along a curve.

One rule holds for every curve: it gives a factor, and at step t the rate of a layer is

    rate(t) = factor(t) · p,

where p is the layer's own drop probability, the one it had when the schedule was made. Layers of different rates keep
their proportions, and p is what the papers call the target. What a step is, a batch or an epoch, the loop decides:

    schedule = RateSchedule(model, LinearRamp(steps=10_000))
    for x, y in batches:
        ...
        schedule.step()

`torch.compile` takes a rate as a constant: it compiles anew for each, and gives up after 8. With it, step once an epoch
along a StepTable of few rates.
"""

from dropout_core.training.curves import Adaptive as Adaptive
from dropout_core.training.curves import Constant as Constant
from dropout_core.training.curves import Curriculum as Curriculum
from dropout_core.training.curves import Curve as Curve
from dropout_core.training.curves import Decay as Decay
from dropout_core.training.curves import Early as Early
from dropout_core.training.curves import LinearRamp as LinearRamp
from dropout_core.training.curves import StepTable as StepTable
from dropout_core.training.schedules import RateSchedule as RateSchedule
