"""What PyTorch's batch normalization makes of some small inputs, and by how much it errs on others.

The first is written to tests/layers/pytorch_golden.json, the second to pytorch_errors.json beside
it. `make test` compares with these files, so PyTorch is no dependency. To write them afresh:

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy
    /tmp/torch/bin/python tools/record_pytorch.py
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = dict[str, list[float]]
Array = NDArray[np.floating]

GOLDEN = Path(__file__).parents[1] / "tests" / "layers" / "pytorch_golden.json"
ERRORS = GOLDEN.with_name("pytorch_errors.json")
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

# Of which errors are recorded: sizes that are few or many, or that no length of blocks divides, and
# the axis of the channels.
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((30, 1), -1),
    ((65521, 1), -1),
    ((4099, 37), -1),
    ((300, 512), -1),
    ((16, 32, 32, 8), -1),
    ((8, 6, 41, 40), 1),
    ((3, 5, 20011), 1),
    ((5000, 7, 3), 1),
]
KINDS: dict[str, Callable[[Array], Array]] = {
    "normal": lambda z: z,
    "ReLU": lambda z: np.maximum(z, 0),
    "constant": lambda z: np.full_like(z, 0.7),
    "half zero": lambda z: np.where(np.arange(z.size).reshape(z.shape) * 2 < z.size, 0, z),
    "outlier first": lambda z: with_outlier(z, 0),
    "outlier last": lambda z: with_outlier(z, -1),
    "sorted": lambda z: np.sort(z, None).reshape(z.shape),
    "alternating": lambda z: np.where(np.arange(z.size) % 2, 1.1, -1).reshape(z.shape),
    "two-valued": lambda z: np.where(z < 0, -0.4, 1.3),
    "lognormal": lambda z: np.exp(2 * z),
    "far, ReLU": lambda z: 1e4 + 0.1 * np.maximum(z, 0),
    "far, two-valued": lambda z: 1e4 + 0.1 * np.sign(z),
    "farther": lambda z: -1e5 + 0.1 * z,
}
LARGE: list[tuple[str, tuple[int, ...]]] = [
    ("ReLU", (1000, 1)),
    ("ReLU", (50_000, 1)),
    ("ReLU", (880_801, 1)),
    ("ReLU", (8, 512, 512, 1)),
    ("ReLU", (64, 56, 56, 64)),
    ("far, ReLU", (200_000, 3)),
    ("far, two-valued", (200_000, 3)),
]
MEASURED = [
    *((kind, shape, axis) for shape, axis in SHAPES for kind in KINDS),
    *((kind, shape, -1) for kind, shape in LARGE),
]


def with_outlier(z: Array, where: int) -> Array:
    """Values of which one, the first or the last in memory, is 10⁶."""
    changed = z.copy()
    changed.flat[where] = 1e6
    return changed


def measured_inputs(
    kind: str, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values of a kind, and a gradient for the output, as a ReLU behind it makes one."""
    rng = np.random.default_rng(SEED)
    x, dy = KINDS[kind](rng.normal(size=shape)), np.maximum(rng.normal(size=shape), 0)
    return x.astype(np.float32), dy.astype(np.float32)


def exact(x: Array, dy: Array, axis: int, epsilon: float = 1e-3) -> dict[str, Array]:
    """Output, gradients for x, gamma (1) and beta, moments, and Σ|dy·y|, all in float64."""
    x, dy = x.astype("float64"), dy.astype("float64")
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + epsilon)
    y = (x - mean) * inverse
    dgamma, dbeta = (dy * y).sum(axes), dy.sum(axes)
    dx = inverse * (dy - dy.mean(axes, keepdims=True) - y * (dy * y).mean(axes, keepdims=True))
    mean, variance = mean.ravel(), variance.ravel()
    terms = np.abs(dy * y).sum(axes)
    return dict(y=y, dx=dx, dgamma=dgamma, dbeta=dbeta, mean=mean, variance=variance, terms=terms)


def errors(found: dict[str, Array], truth: dict[str, Array]) -> dict[str, float]:
    """The largest error of each array, relative to its largest value where that is above 1.

    The gradient for gamma is a sum that may come near 0 by chance: its error is relative to that of
    the absolute values.
    """
    sizes = {name: np.abs(value).max() for name, value in truth.items()}
    sizes["dgamma"] = sizes.pop("terms")
    return {
        name: float(np.abs(found[name] - truth[name]).max() / max(1, size))
        for name, size in sizes.items()
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


def errors_of_pytorch(kind: str, shape: tuple[int, ...], axis: int) -> dict[str, float]:
    """The errors of one step of training. PyTorch's variance is Σ(x − μ)²/(n − 1)."""
    import torch

    def channels_second(array: Array) -> Any:
        return torch.from_numpy(np.moveaxis(array, axis, 1).copy())

    given = measured_inputs(kind, shape)
    x, dy = map(channels_second, given)
    mean, variance, gamma, beta = (torch.full((x.shape[1],), float(v)) for v in (0, 1, 1, 0))
    for each in (x, gamma, beta):
        each.requires_grad_()
    y = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, True, 1.0, 1e-3)
    y.backward(dy)
    n = math.prod(shape) / shape[axis]
    arrays = dict(y=y, dx=x.grad, dgamma=gamma.grad, dbeta=beta.grad, mean=mean, variance=variance)
    found = {name: value.detach().numpy().astype("float64") for name, value in arrays.items()}
    found["variance"] *= (n - 1) / n
    found |= {name: np.moveaxis(found[name], 1, axis) for name in ("y", "dx")}
    return errors(found, exact(*given, axis))


def record_errors() -> dict[str, Any]:
    """The errors of all that is measured, two digits of them."""
    import torch

    cases = {
        f"{kind} {shape} {axis}": {
            name: float(f"{error:.1e}")
            for name, error in errors_of_pytorch(kind, shape, axis).items()
        }
        for kind, shape, axis in MEASURED
    }
    return {"torch": torch.__version__, "numpy": np.__version__, "seed": SEED, "cases": cases}


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
    for file, contents in ((GOLDEN, record()), (ERRORS, record_errors())):
        file.write_text(json.dumps(contents, separators=(",", ":")) + "\n")
        print(f"wrote {file}")
