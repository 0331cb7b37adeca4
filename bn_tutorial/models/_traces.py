"""What models have traced, which would go on as it was."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["forget_traces"]


def forget_traces(model: Any) -> None:
    """Let a model, and each in it, trace anew what trains, evaluates and predicts, when asked."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model):
            layer.train_function = layer.test_function = layer.predict_function = None
