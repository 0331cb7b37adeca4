"""Batch normalization, explained in running code: the companion package of the book.

One module a concept; each loads when it is first asked for, so that importing the
package costs next to nothing:

========================  ==========================================================
``activations``           sigmoid and friends, their derivatives, saturation
``batch_norm``            the textbook reference in NumPy: forward, backward, folding
``book``                  what the book's notebooks share: data, style, drawings, sliders
``doctor``                what is wrong with a model's batch normalizations, and what helps
``fast_batch_norm``       the same for large inputs: in blocks that stay in the cache
``layers``                the Keras layer for today: a drop-in that keeps its digits
``migration``             weights from TensorFlow 1 and PyTorch, and back to PyTorch
``models``                what acts on whole Keras models: finding, recalibrating, folding
``moving_average``        the exponential moving average with TensorFlow's semantics
``scaling``               min-max, max-abs, mean normalization, standardization
``tf1``                   the classic TensorFlow 1 layer and a small way to run graphs
========================  ==========================================================
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_MODULES = (
    "activations",
    "batch_norm",
    "book",
    "doctor",
    "fast_batch_norm",
    "layers",
    "migration",
    "models",
    "moving_average",
    "scaling",
    "tf1",
)

TYPE_CHECKING = False  # a type checker takes it for true; importing it would load all of `typing`

if TYPE_CHECKING:
    from . import activations as activations
    from . import batch_norm as batch_norm
    from . import book as book
    from . import doctor as doctor
    from . import fast_batch_norm as fast_batch_norm
    from . import layers as layers
    from . import migration as migration
    from . import models as models
    from . import moving_average as moving_average
    from . import scaling as scaling
    from . import tf1 as tf1
else:

    def __getattr__(name: str) -> ModuleType:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
