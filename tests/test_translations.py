"""The Chinese edition: each message has a finished translation that keeps to the rules."""

import pytest

from publish.catalogs import FRAME, messages_of_frame, read_catalog, translations, with_words
from tools.rules import ROOT, toc_files
from tools.translations import faults, names_in_glossary, terms

PAGES = [path.relative_to(ROOT).with_suffix("").as_posix() for path in toc_files()]


@pytest.mark.parametrize("name", [*PAGES, FRAME])
def test_each_message_has_a_finished_translation(name):
    """If not: CONTRIBUTING.md says how to bring the catalogues up to date."""
    waiting = [
        message.id
        for message in read_catalog(name)
        if message.id and (message.fuzzy or not message.string)
    ]
    assert not waiting


@pytest.mark.parametrize("name", [*PAGES, FRAME])
def test_each_translation_keeps_to_the_rules(name):
    found = {
        f"{message[:60]}: {fault}"
        for message, translation in translations(name).items()
        for fault in faults(message, translation)
    }
    assert not found


def test_what_stands_around_the_pages_is_translated():
    assert translations(FRAME).keys() == set(messages_of_frame())


def test_no_word_of_a_figure_would_end_its_expression():
    assert not [words for words in translations(FRAME).values() if "'" in words]


def test_the_terms_are_those_of_the_glossary():
    """Each entry of the glossary that the table of terms has bears the same name in both."""
    by_english = {english: chinese for chinese, english in names_in_glossary().items()}
    table = {term.english: term.chinese for term in terms()}
    shared = table.keys() & by_english.keys()
    assert len(shared) > 20
    for english in shared:
        assert table[english] in by_english[english]


MESSAGE = "The variance of 3 batches is $\\sigma^2$: see `tf.nn.moments` and {ref}`why`."
GOOD = "3 批数据的方差是 $\\sigma^2$：见 `tf.nn.moments` 和{ref}`为什么 <why>`。"


def test_a_good_translation_has_no_fault():
    assert faults(MESSAGE, GOOD) == []
    assert faults("{term}`moments` of `x`", "`x` 的{term}`矩`") == []
    assert faults("`x`, [−1, 1]", "`x`, [−1, 1]") == []
    assert faults("as {numref}`fig-unit` shows", "如{numref}`fig-unit` 所示") == []
    assert faults("min-max scaling", "min-max scaling") == []


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("3 批", "2 批", "3 is lost"),
        ("3 批", "3 批（共 4 批）", "4 is new"),
        ("$\\sigma^2$", "σ²", "$\\sigma^2$ is lost"),
        ("`tf.nn.moments`", "`tf.nn.moment`", "`tf.nn.moments` is lost"),
        ("<why>", "<layer>", "{ref}`why` is lost"),
        ("方差", "变异数", "variance is 方差"),
        ("方差", "方差（即标准偏差的平方）", "标准差, not 标准偏差"),
        ("3 批", "3批", "a space is missing in …3批"),
        ("数据的方差", "数据的 方差", "there is a space in …3 批数据的 方差"),
        ("：见", ": 见", "half-width punctuation"),
        ("。", ".", "punctuation in"),
        ("3 批", "−3 批", "−3 is new"),
        ("3 批", "- 3 批", "it is not one paragraph"),
        ("。", "。\n\n完。", "it is not one paragraph"),
        ("3 批数据", "**3 批：**数据", "emphasis is not closed"),
        ("。", "，the page that says it all。", "English is left: the page that says it all"),
    ],
)
def test_a_fault_is_found(right, wrong, fault):
    broken = GOOD.replace(right, wrong)
    assert broken != GOOD
    assert any(fault in found for found in faults(MESSAGE, broken))


def test_the_number_of_a_figure_is_parted_from_the_word_after_it():
    message = "as {numref}`fig-unit` shows"
    assert any("a space is missing" in it for it in faults(message, "如{numref}`fig-unit`所示"))


def test_a_message_may_not_stay_in_english():
    assert faults("held", "held") == ["it is not translated"]
    assert faults("Summary", "Summary") == faults("Summary", "Sum up") == ["it is not translated"]
    assert faults("It held in five seeds.", "It held in five seeds.")


def test_only_the_words_of_a_figure_with_sliders_are_translated():
    figure = {
        "title": "update",
        "params": [{"name": "mean", "bind": {"name": "mean of z"}}],
        "transform": [{"calculate": "'mean slope ' + format(datum.mean, '.2f')", "as": "mean"}],
        "usermeta": {"presets": [{"title": "steep", "note": "look", "settings": {"mean": 1}}]},
    }
    assert with_words(figure, str.upper) == {
        "title": "UPDATE",
        "params": [{"name": "mean", "bind": {"name": "MEAN OF Z"}}],
        "transform": [{"calculate": "'MEAN SLOPE ' + format(datum.mean, '.2F')", "as": "mean"}],
        "usermeta": {"presets": [{"title": "STEEP", "note": "LOOK", "settings": {"mean": 1}}]},
    }
