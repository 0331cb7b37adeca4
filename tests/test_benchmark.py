"""`make bench` fails where a bound is missed. Nothing is measured here."""

import json
from pathlib import Path

import pytest

from tools import benchmark
from tools.benchmark import Ratio, faster, main

NAN = float("nan")
GROUPS = ["numpy_ratios", "layer_ratios", "training_ratios", "model_ratios", "folding_ratios"]


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path):
    """No row is measured, and where the results go."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # which main() would set for good
    monkeypatch.setattr(benchmark, "BUILD", tmp_path)
    for group in GROUPS:
        monkeypatch.setattr(benchmark, group, lambda: [])
    return tmp_path / "benchmark.json"


def missed(part, results):
    """What is missed in a part, which is what the verb says as it fails."""
    try:
        main([part])
        said = None
    except SystemExit as stop:
        said = stop.code  # a text is printed, and the exit status is 1
    rows = [row["measured"] for row in json.loads(results.read_text())[part] if not row["holds"]]
    assert said == (f"Missed: {'; '.join(rows)}" if rows else None)
    return rows


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    ("ratio", "at_least", "holds"),
    [
        (0.89, True, False),
        (0.9, True, True),
        (0.91, True, True),
        (NAN, True, False),
        (0.89, False, True),
        (0.91, False, False),
        (NAN, False, False),
    ],
)
def test_a_ratio_on_the_wrong_side_of_its_bound_fails(
    monkeypatch, capsys, results, group, ratio, at_least, holds
):
    rows = [Ratio("good", "that", 2, 1), Ratio("this", "that", ratio, 0.9, at_least)]
    monkeypatch.setattr(benchmark, group, lambda: rows)
    assert missed("ratios", results) == ([] if holds else ["this"])
    assert ("MISSED" in capsys.readouterr().out) == (not holds)


@pytest.mark.parametrize(
    ("seconds", "gigabytes", "holds"), [(39, 1.9, True), (41, 1, False), (1, 2.1, False)]
)
def test_a_notebook_that_takes_too_much_fails(monkeypatch, results, seconds, gigabytes, holds):
    monkeypatch.setattr(benchmark, "toc_files", lambda: [Path("page.md"), Path("chapter.ipynb")])
    monkeypatch.setattr(benchmark, "run_notebook", lambda path: (seconds, gigabytes))
    assert missed("notebooks", results) == ([] if holds else ["chapter"])


@pytest.mark.parametrize(
    ("parts", "files"),
    [
        ([], {"benchmark.json": ["imports", "notebooks", "ratios"]}),
        (["ratios", "imports"], {"benchmark.json": ["imports", "ratios"]}),
        (["sweep"], {"sweep.json": ["sweep"]}),
        (["sweep", "ratios"], {"benchmark.json": ["ratios"], "sweep.json": ["sweep"]}),
    ],
    ids=str,
)
def test_the_sweep_is_measured_where_it_is_asked_for_and_has_a_file_of_its_own(
    monkeypatch, capsys, results, parts, files
):
    for part in benchmark.PARTS:
        row = {"measured": part, "holds": True}
        monkeypatch.setitem(benchmark.PARTS, part, lambda row=row: [row])
    main(parts)
    written = {path.name: json.loads(path.read_text()) for path in results.parent.iterdir()}
    about = {"when", "machine", "versions"}
    assert {name: sorted(set(content) - about) for name, content in written.items()} == files
    assert all(about <= set(content) for content in written.values())
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"Written to {', '.join(f'{results.parent.name}/{name}' for name in files)}"


def test_an_unknown_part_is_refused():
    with pytest.raises(SystemExit, match=r"unknown: ratio; there are imports, .*sweep"):
        main(["ratio"])


@pytest.mark.parametrize(("package", "holds"), [(1.4, True), (1.6, False)])
def test_a_slow_import_fails(monkeypatch, results, package, holds):
    monkeypatch.setattr(
        benchmark, "run_statement", lambda code: package if "bn_tutorial" in code else 1.0
    )
    name = "import bn_tutorial, numpy"
    assert missed("imports", results) == ([] if holds else [name])


@pytest.mark.parametrize(
    ("ratios", "last"), [([2, 3], 2), ([0.5, 2], 2), ([0.5, 0.6, 2], 0.6)], ids=str
)
def test_a_row_that_misses_is_measured_once_more(monkeypatch, ratios, last):
    measured = iter(ratios)
    monkeypatch.setattr(benchmark, "paired", lambda *calls: (next(measured), (1, 1)))
    assert faster("this", "that", None, None, 1.0).ratio == last
