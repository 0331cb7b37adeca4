"""The examples in docstrings and in README.md print what they show."""

import contextlib
import doctest
import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path
from unittest import mock

import pytest

import bn_tutorial

with contextlib.suppress(ModuleNotFoundError):  # the package alone works without it
    import matplotlib

    matplotlib.use("agg")

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FIGURES = {"IPython", "altair", "matplotlib", "matplotlib_inline", "sklearn", "vl_convert"}


def public_objects():
    """Every public function and class, once; or why its module cannot be imported."""
    seen = set()
    for _, name, _ in pkgutil.walk_packages(bn_tutorial.__path__, "bn_tutorial."):
        if "._" in name:
            continue
        short = name.removeprefix("bn_tutorial.")
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if not name.startswith("bn_tutorial.book.") or missing not in FIGURES:
                raise
            reason = f"{name} needs {missing}, which is not installed"
            yield pytest.param(None, id=short, marks=pytest.mark.skip(reason=reason))
            continue
        for key in getattr(module, "__all__", []):
            thing = getattr(module, key)
            if callable(thing) and thing not in seen:  # neither a module nor a colour
                seen.add(thing)
                yield pytest.param(thing, id=f"{short}.{key}")


OBJECTS = list(public_objects())


@contextlib.contextmanager
def settings_restored():
    """Undo what an example sets for the whole process."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    with mock.patch.dict(os.environ), pyplot.rc_context() if pyplot else contextlib.nullcontext():
        yield
    if pyplot:
        pyplot.close("all")


def run_examples(thing):
    """Run the examples of an object and of its public members; return the report of failures.

    An example knows no names but those that it imports.
    """
    report = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    for test in doctest.DocTestFinder().find(thing, thing.__name__, globs={}):
        if "._" not in test.name:
            with settings_restored():
                runner.run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("thing", OBJECTS)
def test_examples_print_what_they_show(thing):
    report = run_examples(thing)
    if report:
        pytest.fail(report, pytrace=False)


@pytest.mark.parametrize("thing", OBJECTS)
def test_everything_public_has_an_example(thing):
    doc = thing.__doc__ or ""
    assert ">>> " in doc, f"{thing.__qualname__} has no example"
    assert "+SKIP" not in doc, f"{thing.__qualname__} has an example that is not run"


def test_a_wrong_example_is_reported():
    def one():
        """Return 1.

        >>> 1 + 1
        1
        """

    assert "Expected:\n    1\nGot:\n    2\n" in run_examples(one)


HERE = Path(__file__).parents[1]
README, CHINESE_README = HERE / "README.md", HERE / "README.zh-CN.md"


def blocks(path: Path, language: str) -> list[str]:
    """The blocks of code of a page, less their comments."""
    found = re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.M)
    return [re.sub(" *#.*", "", block) for block in found]


@pytest.mark.parametrize("block", blocks(README, "python"))
def test_the_readme_runs(block):
    exec(compile(block, README.name, "exec"), {})


def test_the_readme_has_an_example():
    assert blocks(README, "python")


def test_the_chinese_readme_says_the_same():
    assert blocks(CHINESE_README, "python") == blocks(README, "python")
    assert blocks(CHINESE_README, "sh") == blocks(README, "sh")[:1]
    english, chinese = (
        re.findall(r"^\| `(\w+)` \|", path.read_text("utf-8"), re.M)
        for path in (README, CHINESE_README)
    )
    assert chinese == english
    assert f"]({CHINESE_README.name})" in README.read_text("utf-8")
    assert f"]({README.name})" in CHINESE_README.read_text("utf-8")
