"""A doctor for models: what is wrong with their batch normalizations, and what helps.

`examine` runs a model on data and reports; `Watch` looks while it trains; and
``python -m bn_tutorial.doctor model.keras data.npz`` examines from the command line.

====================  =========================================================================
code                  what it says
====================  =========================================================================
averages-never-moved  the averages are as they were made, though the weights are trained
averages-lag          the averages are not (or no longer) those of the data
frozen-mismatch       the same of a frozen layer
data-shift            validation data have other statistics than training data
small-batch           the statistics of a batch are noisy
unlike-batches        the batches are no random draws: sorted, or of one kind each
outliers              one example makes most of the variance of its batch
modes-disagree        the model answers otherwise in training mode than in inference mode
dropout-before        dropout gives the inputs another variance in training
shared-layer          several places share one pair of averages
inference-forced      the layer stays in inference mode while its model trains
training-forced       the layer stays in training mode while its model does not train
twice-a-step          the averages move more than once a training step
padding-counts        padding is counted, since a mask does not arrive
wrong-axis            the axis is not that of the channels of the convolution next to it
replicas              each replica has statistics of its own
not-finite            averages, parameters or inputs are not finite
negative-variance     a moving variance is negative
half-precision        averages in half precision, or values near its end
small-variance        the inputs hardly vary, against ε
dead-unit             a ReLU after it never lets a channel through
always-on             a ReLU after it always lets a channel through
useless-bias          the layer before has a bias, which the mean takes away
not-examined          the layer was not called, or not where values can be seen
====================  =========================================================================
"""

from .examining import examine
from .report import Finding, LayerStatistics, Report
from .watch import Watch

__all__ = ["Finding", "LayerStatistics", "Report", "Watch", "examine"]
