"""What PyTorch's batch normalization makes of some small inputs, written to
tests/layers/pytorch_golden.json.

`make test` compares with that file, so PyTorch is no dependency. To write it afresh:

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy
    /tmp/torch/bin/python tools/record_pytorch.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = dict[str, list[float]]

GOLDEN = Path(__file__).parents[1] / "tests" / "layers" / "pytorch_golden.json"
SEED = 20150211
STEPS = 3

# PyTorch has the channels second. Its momentum is the weight of the new value.
CASES: dict[str, dict[str, Any]] = {
    "BatchNorm1d, rank 2": dict(shape=(6, 3), momentum=0.1, eps=1e-5, affine=True),
    "BatchNorm1d, rank 3": dict(shape=(4, 3, 5), momentum=0.1, eps=1e-5, affine=True),
    "BatchNorm2d": dict(shape=(3, 4, 3, 2), momentum=0.1, eps=1e-5, affine=True),
    "BatchNorm3d": dict(shape=(2, 3, 2, 3, 2), momentum=0.1, eps=1e-5, affine=True),
    "BatchNorm2d, not affine": dict(shape=(4, 2, 3, 3), momentum=0.3, eps=1e-3, affine=False),
    "BatchNorm1d, two values": dict(shape=(2, 5), momentum=0.5, eps=1e-2, affine=True),
}


def inputs(name: str) -> dict[str, NDArray[np.float32]]:
    """The batches, upstream gradients, scale and shift of a case, with two decimals."""
    rng = np.random.default_rng([SEED, list(CASES).index(name)])
    shape = CASES[name]["shape"]
    numbers: dict[str, NDArray[np.float64]] = {
        "x": rng.normal(3, 2, (STEPS, *shape)),
        "dy": rng.normal(0, 1, (STEPS, *shape)),
        "gamma": rng.normal(0, 2, shape[1]),
        "beta": rng.normal(0, 2, shape[1]),
    }
    return {key: value.round(2).astype(np.float32) for key, value in numbers.items()}


def numbers_of(array: Any) -> list[float]:
    """A flat list; 9 digits are all that a float32 has."""
    return [float(f"{value:.9g}") for value in array.flatten()]


def layer_of(case: dict[str, Any]) -> Any:
    """The layer of PyTorch that a case is about."""
    import torch

    kinds = {
        2: torch.nn.BatchNorm1d,
        3: torch.nn.BatchNorm1d,
        4: torch.nn.BatchNorm2d,
        5: torch.nn.BatchNorm3d,
    }
    settings = {key: case[key] for key in ("eps", "momentum", "affine")}
    return kinds[len(case["shape"])](case["shape"][1], **settings)


def steps_of(layer: Any, data: dict[str, NDArray[np.float32]]) -> list[Numbers]:
    """What a layer makes of the batches, one after the other, and last in inference mode."""
    import torch

    if layer.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(data["gamma"]))
            layer.bias.copy_(torch.from_numpy(data["beta"]))
    steps: list[Numbers] = []
    for training in [True] * STEPS + [False]:
        layer.train(training)
        layer.zero_grad()
        which = min(len(steps), STEPS - 1)
        x = torch.from_numpy(data["x"][which]).requires_grad_()
        y = layer(x)
        y.backward(torch.from_numpy(data["dy"][which]))
        step = {"y": y, "dx": x.grad}
        if layer.affine:
            step |= {"dgamma": layer.weight.grad, "dbeta": layer.bias.grad}
        step |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
        steps.append({key: numbers_of(value) for key, value in step.items()})
    return steps


def record() -> dict[str, Any]:
    """All that the tests compare: outputs, gradients and running statistics of each step."""
    import torch

    results = {}
    for name, case in CASES.items():
        data = inputs(name)
        results[name] = {
            **case,
            "inputs": {key: numbers_of(value) for key, value in data.items()},
            "steps": steps_of(layer_of(case), data),
        }
    return {"torch": torch.__version__, "numpy": np.__version__, "seed": SEED, "cases": results}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(record(), separators=(",", ":")) + "\n")
    print(f"wrote {GOLDEN}")
