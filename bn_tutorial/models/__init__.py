"""What acts on whole Keras models: finding their batch normalizations, and folding them away."""

from .find import find_batch_norms
from .folding import fold_batch_norm

__all__ = ["find_batch_norms", "fold_batch_norm"]
