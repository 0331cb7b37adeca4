"""What PyTorch's `torch.optim.swa_utils.update_bn` makes of some batches.

It is written to tests/data/update_bn.json, with which `make test` compares. To write it afresh:

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.14.1 numpy
    /tmp/torch/bin/python tools/record_update_bn.py
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "update_bn.json"
SEED = 20150211
SIZES = (8, 6, 3)  # of the batches, which differ
WIDTHS = (4, 5, 3)  # of the inputs and of two layers, each normalized
EPSILON = 1e-3


def inputs() -> dict[str, NDArray[np.float32]]:
    """Data, kernels and biases, with two decimals."""
    rng = np.random.default_rng(SEED)
    numbers = {"x": rng.normal(3, 2, (sum(SIZES), WIDTHS[0]))}
    for i, shape in enumerate(itertools.pairwise(WIDTHS)):
        numbers |= {f"kernel {i}": rng.normal(size=shape), f"bias {i}": rng.normal(size=shape[1:])}
    return {key: value.round(2).astype(np.float32) for key, value in numbers.items()}


def updated(batches: list[NDArray[np.float32]]) -> list[list[float]]:
    """The running mean and variance of both layers after batches, from first to last."""
    import torch

    model = torch.nn.Sequential()
    for i, (size, width) in enumerate(itertools.pairwise(WIDTHS)):
        linear, norm = torch.nn.Linear(size, width), torch.nn.BatchNorm1d(width, eps=EPSILON)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(inputs()[f"kernel {i}"].T))
            linear.bias.copy_(torch.from_numpy(inputs()[f"bias {i}"]))
        model.extend([linear, norm, torch.nn.ReLU()])
    torch.optim.swa_utils.update_bn([torch.from_numpy(batch) for batch in batches], model)
    norms = [layer for layer in model if isinstance(layer, torch.nn.BatchNorm1d)]
    arrays = [array for norm in norms for array in (norm.running_mean, norm.running_var)]
    return [[float(f"{value:.9g}") for value in array] for array in arrays]


def batches() -> list[NDArray[np.float32]]:
    """The data, cut."""
    return np.split(inputs()["x"], np.cumsum(SIZES)[:-1])


def record() -> dict[str, Any]:
    """What each batch alone leads to, and what all of them do."""
    import torch

    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": SEED,
        "each": [updated([batch]) for batch in batches()],
        "all": updated(batches()),
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(record(), separators=(",", ":")) + "\n")
