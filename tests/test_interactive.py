"""The interactive figures compute what the package computes, and come out the same every time."""

import itertools
import json
import re
from copy import deepcopy
from functools import cache, partial
from types import SimpleNamespace
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
import vl_convert
from IPython.core.interactiveshell import InteractiveShell

from bn_tutorial.activations import normal_mean, sigmoid_derivative
from bn_tutorial.batch_norm import batch_norm_forward, batch_norm_inference
from bn_tutorial.book import interactive
from bn_tutorial.book.interactive import (
    averaged_signal,
    both_modes,
    lagging_averages,
    show,
    sigmoid_unit,
)
from bn_tutorial.book.interactive.averaged_signal import SIGNAL
from bn_tutorial.book.interactive.both_modes import (
    BATCH,
    EPSILON,
    MOVING_MEAN,
    MOVING_VARIANCE,
    TYPICAL,
)
from bn_tutorial.moving_average import ExponentialMovingAverage, half_life, window
from experiments import lagging
from experiments.records import Record
from publish.ext import interactive as extension
from tools.rules import ROOT

RECORD = Record("lagging")
lagging_chart = partial(lagging_averages.chart, lagging.measured(RECORD))
CHARTS = [sigmoid_unit.chart, averaged_signal.chart, both_modes.chart, lagging_chart]
PAGES = {"why": "fig-unit", "moving_averages": "fig-ema-live", "algorithm": "fig-batch"}
PAGES["wrong"] = "fig-wrong-lag"


@cache
def spec_of(chart):
    """A chart as JSON, which takes Altair ten times as long to make as it takes to draw."""
    return chart().to_dict()


def settings_of(bind):
    """The first and the last setting of a control."""
    if bind["input"] == "checkbox":
        return False, True
    if bind["input"] == "select":
        return bind["options"][0], bind["options"][-1]
    return bind["min"], bind["max"]


def texts(chart, **settings):
    """The text of each named line of a chart whose sliders stand at these settings."""
    spec = deepcopy(spec_of(chart))
    for name, value in settings.items():
        [param] = [param for param in spec["params"] if param["name"] == name]
        low, high = settings_of(param["bind"])
        assert low <= value <= high
        param["value"] = value
    svg = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec, vl_version="5.20"))
    found = {}
    for group in svg.iter("{http://www.w3.org/2000/svg}g"):
        if name := re.fullmatch(r"mark-text role-mark (\w+)_marks", group.get("class", "")):
            found[name[1]] = "".join(group.itertext())
    return found


def numbers(chart, **settings):
    """The last number in each named line."""
    found = {name: re.findall(r"[−\d.]+", text) for name, text in texts(chart, **settings).items()}
    return {name: float(values[-1].replace("−", "-")) for name, values in found.items() if values}


def shown(value, digits=4):
    """Equal to ``value`` as far as ``digits`` decimals can tell."""
    return pytest.approx(value, rel=0, abs=0.5001 * 10**-digits)


@pytest.mark.parametrize(
    ("mean", "deviation", "gamma", "beta", "log_epsilon"),
    [
        (-6, 1, 1, 0, -3),  # the article's example
        (3.5, 0.3, 2.5, -4, -1),
        (-8, 4, 4, 8, -5),
        (8, 4, 4, -8, 1),
        (0, 0, 4, 2, 1),  # a constant
        (5, 2, 0, -8, -2),
    ],
)
def test_unit_shows_the_mean_slopes(mean, deviation, gamma, beta, log_epsilon):
    found = numbers(
        sigmoid_unit.chart,
        mean=mean,
        deviation=deviation,
        gamma=gamma,
        beta=beta,
        log_epsilon=log_epsilon,
    )
    # Two examples at mean ± deviation have that mean and that deviation.
    z = np.array([[mean - deviation], [mean + deviation]])
    y, cache = batch_norm_forward(z, [gamma], [beta], epsilon=10**log_epsilon)
    for row, center, width in [
        ("before", mean, deviation),
        ("step3", 0, cache.x_hat.std()),
        ("step4", beta, y.std()),
    ]:
        slope = normal_mean(sigmoid_derivative, center, width)
        assert found[f"{row}_slope"] == shown(slope)
        assert found[f"{row}_moments"] == shown(width, 2)
    assert found["step4_scaled"] == shown(gamma * slope)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize(
    ("decay", "steps", "start"),
    [(0.9, 60, 0), (0, 1, 5), (0, 50, -2), (0.5, 3, 5), (0.99, 100, 5), (0.99, 1, -2)],
)
def test_moving_average_shows_what_the_class_computes(decay, steps, start, debias):
    found = numbers(averaged_signal.chart, decay=decay, steps=steps, start=start, debias=debias)
    ema = ExponentialMovingAverage(decay, zero_debias=debias)
    if not debias:
        ema.initialize({"v": np.float64(start)})
    for value in SIGNAL[:steps]:
        ema.apply({"v": value})
    # The class rounds the decay to float32.
    assert found["average"] == pytest.approx(float(ema.average("v")), rel=0, abs=0.6e-4)
    assert found["start_weight"] == shown(0 if debias else decay**steps)
    assert found["window"] == shown(window(decay), 1)
    assert found["half_life"] == shown(half_life(decay) if decay else 0, 1)


@pytest.mark.parametrize(
    ("gamma", "beta", "values", "size"),
    [
        (1, 0, BATCH, 6),
        (1.5, -0.5, (3, -0.5, 1.5, 5.5, 6, 15), 6),
        (2, 2, (-5, 15, 15, 15, 15, 15), 4),
        (0.3, 1, (7, 7, 7, 7, 7, 7), 6),  # no deviation at all
        (2, -1, (3, 15, -5, 1, 1, 1), 1),
    ],
)
def test_batch_shows_both_modes(gamma, beta, values, size):
    settings = {f"x{i}": value for i, value in enumerate(values, start=1)}
    found = numbers(both_modes.chart, gamma=gamma, beta=beta, size=size, **settings)
    x = np.array(values, dtype=float)[:size, np.newaxis]
    y, cache = batch_norm_forward(x, [gamma], [beta], epsilon=EPSILON)
    assert found["training_mean"] == shown(cache.mean[0], 2)
    assert found["training_variance"] == shown(cache.variance[0], 2)
    assert found["training_x_hat"] == shown(cache.x_hat[0, 0])
    assert found["training_y"] == shown(y[0, 0])

    stored = [MOVING_MEAN], [MOVING_VARIANCE]
    x_hat = batch_norm_inference(x, [1], [0], *stored, epsilon=EPSILON)
    y = batch_norm_inference(x, [gamma], [beta], *stored, epsilon=EPSILON)
    assert found["inference_mean"] == MOVING_MEAN
    assert found["inference_variance"] == MOVING_VARIANCE
    assert found["inference_x_hat"] == shown(x_hat[0, 0])
    assert found["inference_y"] == shown(y[0, 0])


def test_a_batch_mate_moves_the_output_in_training_only():
    before, after = (texts(both_modes.chart, x6=value) for value in (8.5, 15))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"training_{name}" for name in ("mean", "variance", "x_hat", "y")}


def test_what_is_to_be_compared_differs_from_the_start():
    batch, unit = numbers(both_modes.chart), numbers(sigmoid_unit.chart)
    assert batch["training_y"] > 0.5 > 0 > batch["inference_y"]
    assert unit["step3_slope"] > unit["step4_slope"] + 0.05 > unit["before_slope"] + 0.1


def test_the_typical_batch_has_the_stored_statistics():
    assert np.mean(TYPICAL) == MOVING_MEAN
    assert np.var(TYPICAL) == MOVING_VARIANCE


def preset(chart, title):
    """The numbers that a figure shows in one of its situations."""
    [found] = [it for it in spec_of(chart)["usermeta"]["presets"] if it["title"] == title]
    return numbers(chart, **found["settings"])


def test_presets_show_what_their_notes_say():
    typical = preset(both_modes.chart, "A typical batch")
    outlier = preset(both_modes.chart, "An outlier in the batch")
    assert typical["training_y"] == typical["inference_y"] == outlier["inference_y"]
    assert outlier["training_variance"] > 2 * typical["training_variance"]
    assert preset(both_modes.chart, "A batch of two")["training_y"] == shown(-1, 3)
    assert preset(both_modes.chart, "A batch of one")["training_y"] == 0.5
    lag = preset(both_modes.chart, "Averages that lag")
    assert lag["training_mean"] == MOVING_MEAN + 6
    assert lag["inference_y"] == shown(lag["training_y"] + 2, 3)

    normal = preset(sigmoid_unit.chart, "Just normalized")
    assert normal["step4_slope"] == normal["step3_slope"]
    undone = preset(sigmoid_unit.chart, "γ and β undo step 3")
    assert undone["step4_slope"] == undone["before_slope"]
    steep = preset(sigmoid_unit.chart, "A steep unit")
    assert steep["step4_slope"] < steep["step3_slope"] < steep["step4_scaled"]
    wide = preset(sigmoid_unit.chart, "Spread too wide")
    assert wide["before_slope"] < 0.5 * wide["step3_slope"]
    assert preset(sigmoid_unit.chart, "ε takes over")["step3_moments"] < 0.5

    early = preset(averaged_signal.chart, "Decay 0.99 after 10 updates")
    assert early["start_weight"] == shown(0.9, 2)
    debiased = preset(averaged_signal.chart, "The same, debiased")
    assert min(SIGNAL[:10]) < early["average"] < 0.5 < debiased["average"] < max(SIGNAL[:10])
    assert preset(averaged_signal.chart, "A wrong start")["start_weight"] < 0.02
    assert preset(averaged_signal.chart, "A long window and a jump")["average"] < 2.5

    first = numbers(lagging_chart)
    assert first["start_weight"] > 50
    assert first["evaluation"] < 20 < 90 < first["training"]
    fresh = preset(lagging_chart, "The same, recalibrated")
    assert abs(fresh["recalibrated"] - fresh["training"]) < 1
    shorter = preset(lagging_chart, "A shorter memory")
    assert abs(shorter["evaluation"] - shorter["training"]) < 1
    assert preset(lagging_chart, "Too long a memory")["evaluation"] < 20
    four = preset(lagging_chart, "Batches of four")
    assert four["training"] < four["evaluation"] < four["recalibrated"]


@pytest.mark.parametrize("chart", CHARTS)
def test_presets_and_handles_set_controls_that_there_are(chart):
    spec = spec_of(chart)
    meta = spec["usermeta"]
    controls = {param["name"]: param for param in spec["params"] if "bind" in param}
    for preset in meta["presets"]:
        assert preset["note"].endswith(".")
        for name, value in preset["settings"].items():
            bind = controls[name]["bind"]
            if bind["input"] == "range":
                steps = (value - bind["min"]) / bind["step"]
                assert steps == pytest.approx(round(steps))
                assert bind["min"] <= value <= bind["max"]
    vega = vl_convert.vegalite_to_vega(spec, vl_version="5.20")
    scales = {scale["name"] for scale in vega["scales"]}
    for name, handle in meta["handles"].items():
        assert f'"name": "{name}"' in json.dumps(vega["marks"])
        assert handle["scale"] in scales
        assert controls.keys() >= set(handle["controls"])
    assert meta["play"] in {None, *controls}


@pytest.mark.parametrize("recalibrate", [False, True])
@pytest.mark.parametrize(
    ("batch", "momentum", "step"), [(128, 0.99, 40), (4, 0.5, 1000), (8, 0.999, 1)]
)
def test_lagging_averages_show_what_the_runs_found(batch, momentum, step, recalibrate):
    settings = {"batch": batch, "momentum": momentum, "recalibrate": recalibrate}
    found = numbers(lagging_chart, log_steps=round(np.log10(step), 1), **settings)
    runs = [
        run["found"]
        for run in json.loads(RECORD.path.read_text(encoding="utf-8"))["runs"]
        if run["case"] == {"batch": batch, "steps": 1000}
    ]
    kinds = {"training": "training", "evaluation": momentum}
    if recalibrate:
        kinds["recalibrated"] = "recalibrated"
    for line, name in kinds.items():
        assert found.pop(line) == shown(100 * np.mean([run[f"{name}, {step}"] for run in runs]), 1)
    assert found == {
        "after": step,
        "memory": shown(1 / (1 - momentum), 0),
        "start_weight": shown(100 * momentum**step, 0),
    }


@pytest.mark.parametrize("chart", CHARTS)
def test_every_extreme_shows_numbers(chart):
    controls = {
        param["name"]: settings_of(param["bind"])
        for param in spec_of(chart)["params"]
        if "bind" in param
    }
    for ends in itertools.product((0, 1), repeat=2):  # of every other control alike
        settings = {name: limits[ends[i % 2]] for i, (name, limits) in enumerate(controls.items())}
        for text in texts(chart, **settings).values():
            assert not re.search("NaN|Infinity|null|undefined", text), settings


@pytest.mark.parametrize("chart", CHARTS)
def test_a_control_has_a_label_and_starts_on_one_of_its_steps(chart):
    for param in spec_of(chart)["params"]:
        if bind := param.get("bind"):
            assert bind["name"]
            low, high = settings_of(bind)
            assert low <= param["value"] <= high
            if bind["input"] == "range":
                steps = (param["value"] - bind["min"]) / bind["step"]
                assert steps == pytest.approx(round(steps))


@pytest.fixture
def display(tmp_path, monkeypatch):
    """What a notebook would store."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # its history stays out of the user's home
    InteractiveShell.instance()
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    return shown


def test_outside_of_ipython_a_figure_is_named_only(monkeypatch, capsys):
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: None)
    show(both_modes.chart())
    named = "<interactive figure: a batch in training mode and in inference mode>\n"
    assert capsys.readouterr().out == named


@pytest.mark.parametrize("chart", CHARTS)
def test_a_figure_is_stored_live_and_still_and_the_same_every_time(chart, display):
    show(chart())
    show(chart())
    first, second = display
    assert first == second
    assert first.keys() == {"application/vnd.vegalite.v5+json", "image/svg+xml", "text/plain"}
    spec = first["application/vnd.vegalite.v5+json"]
    # Altair counts the names that it gives itself.
    assert not re.search(r'"(view|param)_\d+"', json.dumps(spec))
    # vl-convert measures text with the font that it carries.
    assert spec["config"]["font"].startswith("Liberation Sans,")
    for tag in re.findall("<[^>]*>", first["image/svg+xml"]):
        assert not re.search(r"\d\.\d{3}", tag)
    assert len(first["image/svg+xml"]) < 100_000


def page(name, builder="html"):
    """What the extension adds to a page: its files, and its body."""
    files = []
    app = SimpleNamespace(
        builder=SimpleNamespace(name=builder),
        env=SimpleNamespace(
            all_docs={"book/moments", *(f"book/{name}" for name in PAGES)},
            doc2path=lambda page: str(ROOT / f"{page}.ipynb"),
        ),
        add_css_file=lambda name: files.append(name),
        add_js_file=lambda name, defer: files.append(name),
    )
    context = {"body": ""}
    extension.add_figures(app, name, "page.html", context, None)
    return files, context["body"]


@pytest.mark.parametrize(("name", "figure"), PAGES.items())
def test_pages_with_a_live_figure_get_what_it_needs(name, figure):
    files, body = page(f"book/{name}")
    assert set(files) == {"vega.js", "interactive.js", "interactive.css"}
    [(found, text)] = re.findall(r'data-figure="(.*?)" .*?>(.*)</script>', body)
    assert found == figure
    assert "<" not in text
    assert json.loads(text)["marks"]


def test_other_pages_and_builders_get_nothing():
    assert page("book/moments") == ([], "")
    assert page("genindex") == ([], "")
    assert page("book/why", builder="epub") == ([], "")


@pytest.mark.parametrize(("name", "figure"), PAGES.items())
def test_a_notebook_stores_the_figure_that_the_package_draws(name, figure, display):
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    [cell] = [
        cell
        for cell in notebook.cells
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == figure
    ]
    exec(cell.source, vars(interactive) | {"lagging": lagging, "Record": Record})
    assert cell.outputs[0]["data"] == display[0]


def test_the_library_is_one_file_that_names_no_host_to_fetch_from(tmp_path):
    app = SimpleNamespace(builder=SimpleNamespace(name="html"), outdir=tmp_path)
    extension.write_library(app)
    library = (tmp_path / "_static" / "vega.js").read_text(encoding="utf-8")
    assert len(library.encode()) < 1_000_000
    assert "window.vegaEmbed=" in library
    # A module cannot be loaded from a folder, and a script must keep its names to itself.
    assert library.startswith("(() => {")
    assert not re.search(r"(^|;)(import|export)\b", library)
    # Names of languages, and of pages that error messages and menus would point to.
    hosts = set(re.findall(r"https?://([\w.-]+)", library))
    assert hosts <= {"www.w3.org", "vega.github.io", "github.com"}
