"""Write state_dicts of PyTorch's batch normalizations, and what the modules make of some inputs.

They are written to tests/data/state_dicts.json, with which `make test` compares, so PyTorch is no
dependency. To write them afresh:

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.14.1 numpy
    PYTHONPATH=. /tmp/torch/bin/python tools/record_state_dicts.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bn_tutorial import migration

FILE = Path(__file__).parents[1] / "tests" / "data" / "state_dicts.json"
STEPS = 42  # of momentum 0.5: of what the averages start from, 2⁻⁴² is left

MODULES: dict[str, Callable[[], Any]] = {
    "defaults": lambda: torch.nn.BatchNorm1d(3),
    "two dimensions": lambda: torch.nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
    "not affine": lambda: torch.nn.BatchNorm1d(3, affine=False),
    "no bias": lambda: torch.nn.BatchNorm1d(3, bias=False),
    "bfloat16": lambda: torch.nn.BatchNorm1d(3).bfloat16(),
    "no statistics": lambda: torch.nn.BatchNorm1d(3, track_running_stats=False),
    "within": lambda: torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)),
    "two": lambda: torch.nn.Sequential(*(torch.nn.BatchNorm1d(3) for _ in range(2))),
}


def numbers(array: Any) -> tuple[list[float], list[int]]:
    """A flat list and the shape; 9 digits are all that a float32 has."""
    array = np.asarray(array)
    return [float(f"{value:.9g}") for value in array.ravel()], list(array.shape)


def state(module: Any) -> dict[str, Any]:
    """Names, dtypes, values and shapes."""
    return {
        name: (str(value.dtype).removeprefix("torch."), *numbers(value.double()))
        for name, value in module.state_dict().items()
    }


def norm_of(module: Any) -> Any:
    """The batch normalization that a module is or contains."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)]
    return norms[-1]


def record(name: str) -> dict[str, Any]:
    """A module with random weights, its state_dict, and its outputs in evaluation."""
    module, rng = MODULES[name](), np.random.default_rng(list(MODULES).index(name))
    with torch.no_grad():
        for key, value in module.state_dict().items():
            if value.dtype.is_floating_point:
                low = 0.1 if key.endswith("running_var") else -2
                value.copy_(torch.from_numpy(rng.uniform(low, 2, value.shape)))
    norm = norm_of(module).eval()
    spatial = (2, 2) if isinstance(norm, torch.nn.BatchNorm2d) else ()
    x = rng.normal(0, 3, (5, norm.num_features, *spatial)).round(2).astype("float32")
    written = {"eps": norm.eps, "momentum": norm.momentum, "state_dict": state(module)}
    y = norm.float()(torch.from_numpy(x)).detach()
    return {**written, "x": numbers(x), "y": numbers(y)}


def record_training() -> dict[str, Any]:
    """What the averages are after training, with n = 6 values per channel and step."""
    rng = np.random.default_rng(20150211)
    module = torch.nn.BatchNorm1d(3, momentum=0.5)
    batches = rng.normal(3, 2, (3, 6, 3)).round(2).astype("float32")
    for step in range(STEPS):
        module(torch.from_numpy(batches[step % 3]))
    settings = {"eps": module.eps, "momentum": module.momentum, "steps": STEPS}
    return {**settings, "state_dict": state(module), "batches": numbers(batches)}


def record_written() -> list[dict[str, Any]]:
    """What PyTorch makes of weights that `migration.to_torch` wrote."""
    rng = np.random.default_rng(1)
    gamma, beta, mean, variance = rng.uniform(0.1, 2, (4, 3)).round(3).astype("float32")
    x = rng.normal(0, 3, (5, 3)).round(2).astype("float32")
    results = []
    for scale in (True, False):
        for center in (True, False):
            arrays = [gamma if scale else None, beta if center else None, mean, variance]
            norm = migration.BatchNormWeights(*arrays, epsilon=0.02, momentum=0.9)
            state_dict, arguments = migration.to_torch(norm)
            module = torch.nn.BatchNorm1d(**arguments).eval()
            module.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})
            weights = [array if array is None else numbers(array) for array in arrays]
            y = numbers(module(torch.from_numpy(x)).detach())
            taken = {key: numbers(value) for key, value in state_dict.items()}
            both = {"state_dict": taken, "arguments": arguments}
            results.append({"weights": weights, **both, "x": numbers(x), "y": y})
    return results


if __name__ == "__main__":
    contents = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "modules": {name: record(name) for name in MODULES},
        "trained": record_training(),
        "written": record_written(),
    }
    FILE.write_text(json.dumps(contents, separators=(",", ":")) + "\n")
    print(f"wrote {FILE}")
