"""Dropout for networks that are there already: add it, replace it, set its rates, and take all of that back.

    report = add_dropout(model, 0.2)  # before the head
    print(report)
    estimate = predict(model, x)
    report.undo()

Every function changes the model in place and returns a report of what it found, changed and left alone, which can undo
it. Parameters are never copied, and no key of a state_dict is renamed, so that optimisers and checkpoints stay good.
Only the report knows the way back: a copy of the model, or a model from a file, has the new layers and no undo.

Adding dropout to a network that was trained without any perturbs what never learned to bear it. Where a network was
trained with dropout, its passes are draws from an approximate posterior over its weights, fitted to the data (Gal,
Ghahramani 2016, arXiv 1506.02142). Here nothing was fitted: the variance of the passes is how sensitive the outputs are
to losing units at this rate, which is your choice. Its scale means nothing by itself; its order, which inputs are less
sure than others, may.

The mean of the passes moves, too. Before a linear head the mean of the head's own outputs is that of the network, for
dropout keeps expectations; through any later nonlinearity, softmax included, and for dropout deeper in the network,
it is not, and its accuracy may fall.

So train the network with the dropout, or fine-tune it. Where that cannot be done, take data held out from training,
choose the rate and a scale of the variance there by calibration or likelihood, and check the accuracy of the mean.

Sources: of dropout in networks that were trained without it, Loquercio, Segù, Scaramuzza 2020, arXiv 1907.06890;
Ledda, Fumera, Roli 2023, arXiv 2302.02924, who compare it with training with dropout, in regression, and find that all
depends on how the variance is rescaled.
"""

from dropout_core.surgery.add import add_dropout as add_dropout
from dropout_core.surgery.rates import set_rates as set_rates
from dropout_core.surgery.replace import replace_dropout as replace_dropout
from dropout_core.surgery.report import Entry as Entry
from dropout_core.surgery.report import Report as Report
