"""How a report shows what was found."""

import json

import keras
import numpy as np
import pytest
from bs4 import BeautifulSoup

from bn_tutorial import doctor
from bn_tutorial.doctor import Finding, LayerStatistics, Report
from bn_tutorial.doctor.report import SEVERITIES

L = keras.layers

WHOLE = Finding("modes-disagree", "error", "", "they differ", {"apart": 2.0}, "see the others")
IN_A_BLOCK = Finding("small-batch", "warning", "block/norm", "4 values", {"values": 4}, "larger")
ODD = Finding(
    "useless-bias", "note", "<b>&norm</b>", 'a "<script>" & more: β', {}, "use_bias=False"
)
LAYERS = (
    LayerStatistics(
        "first", *(np.array(v) for v in ([1.0, 2], [4.0, 9], [1.0, 2], [4.0, 9])), 1e-3
    ),
    LayerStatistics("other", *(np.array(v) for v in ([0.0], [1.0], [3.0], [16.0])), 1e-3),
)
REPORT = Report((WHOLE, IN_A_BLOCK, ODD), LAYERS, 8, 250)
EMPTY = Report((), LAYERS[:1], 3, 96)


def soup(report):
    return BeautifulSoup(report._repr_html_(), "html.parser")


def test_text():
    assert str(REPORT).splitlines() == [
        "2 batch normalizations, 8 batches, 250 examples",
        "error    modes-disagree  the whole model",
        "         they differ",
        "         → see the others",
        "warning  small-batch     block/norm",
        "         4 values",
        "         → larger",
        "note     useless-bias    <b>&norm</b>",
        '         a "<script>" & more: β',
        "         → use_bias=False",
    ]
    assert repr(REPORT) == str(REPORT)
    assert str(EMPTY) == "nothing found: 1 batch normalization, 3 batches, 96 examples"


def test_a_severity_is_one_of_three():
    with pytest.raises(ValueError, match=r"severity must be one of .*'error'.*, got 'fatal'"):
        Finding("useless-bias", "fatal", "norm", "a bias before it")


def test_long_messages_are_broken():
    long = Finding("small-batch", "warning", "norm", "word " * 60, {}, "other " * 40)
    lines = str(Report((long,), (), 8, 250)).splitlines()
    assert max(map(len, lines)) <= 99
    assert " ".join(" ".join(lines).split()).count("word") == 60


def test_html_has_a_row_for_each_finding_and_escapes():
    table = soup(REPORT).table
    assert table.caption.text == "2 batch normalizations, 8 batches, 250 examples"
    head, *rows = [[cell.text for cell in row(["td", "th"])] for row in table("tr")]
    assert head == ["severity", "code", "layer", "what was found", "what to do"]
    assert rows == [
        [f.severity, f.code, f.layer or "the whole model", f.message, f.remedy]
        for f in REPORT.findings
    ]
    assert not soup(REPORT)(["script", "b"])
    assert soup(EMPTY).p.text == str(EMPTY)


def test_json_holds_all_of_it():
    whole = json.loads(REPORT.to_json())
    assert (whole["steps"], whole["examples"]) == (8, 250)
    for given, finding in zip(whole["findings"], REPORT.findings, strict=True):
        assert given.pop("chapter") == finding.chapter == f"wrong-{finding.code}"
        assert Finding(**given) == finding


def test_json_takes_numbers_of_numpy():
    evidence = {"share": np.float32(0.5), "layers": np.int64(2), "gap": np.float32("inf")}
    report = doctor.Report((Finding("x", "note", "", "…", evidence),), (), 1, 1)
    [finding] = json.loads(report.to_json())["findings"]
    assert finding["evidence"] == {"share": 0.5, "layers": 2, "gap": None}


def test_json_of_an_examination():
    """Numbers of NumPy would be no JSON, and NaN and Infinity are none either."""
    model = keras.Sequential([keras.Input((3,)), L.Dense(4), L.BatchNormalization(), L.ReLU()])
    model.layers[1].moving_variance.assign([1, -1, np.nan, np.inf])
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    report = doctor.examine(model, x, x + 3, batch_size=3)
    assert {"not-finite", "negative-variance"} <= {finding.code for finding in report.findings}

    def refuse(constant):
        raise AssertionError(constant)

    whole = json.loads(report.to_json(), parse_constant=refuse)
    codes = [finding["code"] for finding in whole["findings"]]
    assert codes == [finding.code for finding in report.findings]


@pytest.mark.parametrize("worst", SEVERITIES)
@pytest.mark.parametrize("asked", SEVERITIES)
def test_raise_if(worst, asked):
    report = Report((Finding("small-batch", worst, "norm", "a message"),), (), 8, 250)
    if SEVERITIES.index(worst) <= SEVERITIES.index(asked):
        with pytest.raises(RuntimeError, match="small-batch") as caught:
            report.raise_if(asked)
        assert str(caught.value) == str(report)
    else:
        report.raise_if(asked)
    EMPTY.raise_if(asked)


@pytest.mark.parametrize("severity", ["errors", "", "Error"])
def test_raise_if_there_is_no_such_severity(severity):
    with pytest.raises(ValueError, match="must be one of error, warning, note, got"):
        EMPTY.raise_if(severity)


def test_worst_first():
    """The rules find them in another order: an error, a note, a warning."""
    sick = L.BatchNormalization(dtype="float16")
    model = keras.Sequential([keras.Input((3,)), L.BatchNormalization(), sick])
    sick.moving_variance.assign([1, 1, -1])
    x = np.random.default_rng(0).normal(5, size=(64, 3)).astype("float32")
    found = [(f.severity, f.code) for f in doctor.examine(model, x).findings]
    assert ("note", "averages-never-moved") in found
    assert {severity for severity, _ in found} == set(SEVERITIES)
    assert found == sorted(found, key=lambda finding: SEVERITIES.index(finding[0]))


def test_plot():
    figure = REPORT.plot()
    axes = np.reshape(figure.axes, (2, 2))
    for row, layer in zip(axes, LAYERS, strict=True):
        assert row[0].get_title(loc="left") == layer.layer
        pairs = [
            (layer.mean, layer.moving_mean),
            (np.sqrt(layer.variance), np.sqrt(layer.moving_variance)),
        ]
        for ax, name, (measured, stored) in zip(row, ("mean", "deviation"), pairs, strict=True):
            assert (ax.get_xlabel(), ax.get_ylabel()) == (f"measured {name}", f"stored {name}")
            dots = ax.collections[0].get_offsets()
            np.testing.assert_array_equal(dots, np.transpose([measured, stored]))
            assert ax.get_xlim() == ax.get_ylim()
            assert ax.get_xlim()[0] < dots.min()
            assert dots.max() < ax.get_xlim()[1]
            (diagonal,) = ax.lines
            assert diagonal.get_slope() == 1
            assert diagonal.get_xy1() == (0, 0)


def test_plot_of_a_layer_that_fits_is_its_diagonal():
    x = np.random.default_rng(0).normal(2, 3, (64, 5)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), L.BatchNormalization(name="norm")])
    model.layers[0].moving_mean.assign(x.mean(0))
    model.layers[0].moving_variance.assign(x.var(0))
    for ax in doctor.examine(model, x).plot().axes:
        dots = ax.collections[0].get_offsets()
        assert len(dots) == 5
        np.testing.assert_allclose(dots[:, 0], dots[:, 1], rtol=1e-5)


def test_plot_leaves_out_what_is_not_finite():
    values = [np.array(v) for v in ([np.nan, 1.0], [-1.0, 1.0], [0.0, 1.0], [1.0, np.inf])]
    figure = Report((), (LayerStatistics("norm", *values, 1e-3),), 1, 1).plot()
    means, deviations = (ax.collections[0].get_offsets().tolist() for ax in figure.axes)
    assert means == [[1.0, 1.0]]
    assert deviations == [[1.0, 0.0]]


def test_plot_of_nothing():
    assert len(Report((), (), 1, 1).plot().axes) == 2
