"""A missed bound is an error. What is measured is for `make bench`, on a machine with time."""

import benchmark
import pytest


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let the ratios be these, and nothing else be measured."""
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "benchmark.json")

    def set_ratios(*ratios):
        monkeypatch.setattr(benchmark, "numpy_ratios", lambda: iter(ratios))
        for name in ("layer_ratios", "training_ratios", "folding_ratios"):
            monkeypatch.setattr(benchmark, name, lambda: iter(()))

    return set_ratios


@pytest.mark.parametrize(
    ("ratio", "bound", "at_least", "holds"),
    [
        (1.1, 1.0, True, True),
        (1.0, 1.0, True, True),
        (0.99, 1.0, True, False),
        (float("nan"), 1.0, True, False),
        (1.1, 1.25, False, True),
        (1.3, 1.25, False, False),
        (float("nan"), 1.25, False, False),
    ],
)
def test_a_missed_bound_is_an_error(measured, capsys, ratio, bound, at_least, holds):
    good = benchmark.Ratio("good", "that", 2.0, 1.0)
    measured(good, benchmark.Ratio("this", "that", ratio, bound, at_least))
    if holds:
        benchmark.main(["ratios"])
    else:
        with pytest.raises(SystemExit, match=r"^Missed: this$"):
            benchmark.main(["ratios"])
    assert ("MISSED" in capsys.readouterr().out) == (not holds)
    assert '"holds": ' in benchmark.RESULTS.read_text("utf-8")


@pytest.mark.parametrize(("seconds", "gigabytes"), [(61, 1), (1, 2.1)])
def test_a_notebook_that_takes_too_much_is_an_error(measured, monkeypatch, seconds, gigabytes):
    monkeypatch.setattr(benchmark, "run_notebook", lambda path: (seconds, gigabytes))
    with pytest.raises(SystemExit, match=r"^Missed: index; terminology; "):
        benchmark.main(["notebooks"])
    monkeypatch.setattr(benchmark, "run_notebook", lambda path: (29, 1))
    benchmark.main(["notebooks"])
