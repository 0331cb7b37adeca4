"""What acts on whole Keras models: finding their batch normalizations, replacing them by those of
this package, and folding them away.
"""

from .find import find_batch_norms
from .folding import fold_batch_norm
from .replacing import replace_batch_norm

__all__ = ["find_batch_norms", "fold_batch_norm", "replace_batch_norm"]
