"""The layer against PyTorch, live where it is installed, and as it was recorded."""

import json
import math

import numpy as np
import pytest
from layer_cases import assert_close, runner

from bn_tutorial.layers import BatchNormalization
from tools import record_pytorch


def test_pytorch_recorded():
    compare_with_pytorch(json.loads(record_pytorch.GOLDEN.read_text()))


def test_pytorch_live():
    """Where PyTorch is installed: the golden file is what it says, and the layer agrees with it."""
    pytest.importorskip("torch", reason="PyTorch is not installed: the recorded numbers stand in")
    live, golden = record_pytorch.record(), json.loads(record_pytorch.GOLDEN.read_text())
    compare_with_pytorch(live)
    assert live["seed"] == golden["seed"]
    assert live["cases"].keys() == golden["cases"].keys()
    for name, case in golden["cases"].items():
        assert case["inputs"] == live["cases"][name]["inputs"]
        for step, again in zip(case["steps"], live["cases"][name]["steps"], strict=True):
            assert_close(list(again.values()), list(step.values()))


def compare_with_pytorch(recorded):
    """The same numbers, once the conventions are made the same.

    PyTorch's momentum is the weight of the new value, and it stores the unbiased variance; both
    averages start from 1, so after k batches of n values each with old weight m it stands at
    m^k + s·n/(n − 1) where Keras's stands at m^k + s.
    """
    assert recorded["cases"].keys() == record_pytorch.CASES.keys()
    for case in recorded["cases"].values():
        shape, momentum = case["shape"], 1 - case["momentum"]
        layer = BatchNormalization(
            axis=1, momentum=momentum, epsilon=case["eps"],
            center=case["affine"], scale=case["affine"],
        )  # fmt: skip
        layer.build(shape)
        inputs = {key: np.array(value, "float32") for key, value in case["inputs"].items()}
        if case["affine"]:
            layer.gamma.assign(inputs["gamma"])
            layer.beta.assign(inputs["beta"])
        batches = [inputs[key].reshape(-1, *shape) for key in ("x", "dy")]
        n = math.prod(shape) / shape[1]
        for k, step in enumerate(case["steps"]):
            training = k < record_pytorch.STEPS
            if not training:  # PyTorch normalizes with the variance that it stores
                layer.moving_variance.assign(step["running_var"])
            which = min(k, record_pytorch.STEPS - 1)
            results = runner(layer, training=training)(batches[0][which], batches[1][which])
            expected = [
                np.array(step[key]) for key in ("y", "dx", "dgamma", "dbeta") if key in step
            ]
            assert_close([result.ravel() for result in results], expected)
            variance = np.array(step["running_var"])
            if training:
                start = momentum ** (k + 1)
                variance = start + (variance - start) * (n - 1) / n
            assert_close(layer.get_weights()[-2:], [np.array(step["running_mean"]), variance])
