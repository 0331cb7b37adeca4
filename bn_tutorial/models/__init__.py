"""What acts on whole Keras models: finding their batch normalizations, replacing them by those of
this package, folding them away, freezing them, and setting their moving averages to what data give.
"""

from .find import find_batch_norms
from .folding import fold_batch_norm
from .freezing import freeze, unfreeze
from .recalibrating import recalibrate
from .replacing import replace_batch_norm

__all__ = [
    "find_batch_norms",
    "fold_batch_norm",
    "freeze",
    "recalibrate",
    "replace_batch_norm",
    "unfreeze",
]
