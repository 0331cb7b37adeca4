"""Sick models, each with its cure, and healthy ones: the doctor finds the disease, and no other.

``BN_WARD=all python -m pytest tests/doctor/test_ward.py`` tries all of them; without it there is
one of each disease, and three healthy ones.
"""

import json
import os
import re
from pathlib import Path

import pytest
import ward_statistics  # noqa: F401  (admits patients, as the next one)
import ward_structure  # noqa: F401
from healthy import HEALTHY
from patients import WARD, course

from bn_tutorial import doctor
from bn_tutorial.doctor import _rules
from tests.layers.layer_cases import alone
from tools.rules import ROOT

ALL = os.environ.get("BN_WARD") == "all"
# Only a process of its own has two logical processors.
REPLICAS = ("Sequential, tf.data", "functional in 2D, a list", "a block in 1D, PyDataset")
REPLICAS = (*REPLICAS, "subclassed, a stream")
FEW_HEALTHY = (
    "the norm alone frozen, with averages that fit",
    "padded sequences, with a mask that reaches the norm",
    "normalized after the activation, by a loop of one's own, with a bias that counts",
)
PLACE = {"folder": str(Path(__file__).parent), "count": len(REPLICAS)}


def wards():
    """The clothes of all patients, by the code of their disease."""
    found = {}
    for code, clothes in WARD:
        found.setdefault(code, []).append(clothes)
    return found


def chosen():
    """All patients, or the first of the first disease, the second of the next, and so on.

    So sequential, functional, subclassed and nested models are all met.
    """
    return [
        pytest.param(code, name, id=f"{code}: {name}")
        for turn, (code, clothes) in enumerate(sorted(wards().items()))
        for name in (clothes if ALL else [clothes[turn % len(clothes)]])
    ]


def check(code, layer, before, after):
    """The code is found where it is, alone among errors, and what is left of it is a lesser note.

    Of what was a note, nothing is left.
    """
    found = {severity: where for is_code, severity, where in before if is_code == code}
    assert found, before
    if layer is not None:
        assert layer in found.values(), before
    assert {other for other, severity, _ in before if severity == "error"} <= {code}, before
    left = {severity for is_code, severity, _ in after if is_code == code}
    assert left <= {"note"} - set(found), after


@pytest.mark.parametrize(("code", "clothes"), chosen())
def test_the_disease_is_found_and_goes_with_the_cure(code, clothes):
    layers = []

    def make():
        made = WARD[code, clothes]()
        layers.append(made.layer)
        return made

    before, after = course(make)
    check(code, *layers, before, after)


IN_REPLICAS = """
import json
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, {folder!r})
import ward_structure
from patients import WARD, course
of = {{clothes: make for (code, clothes), make in WARD.items() if code == "replicas"}}
assert len(of) == {count}
print(json.dumps({{clothes: course(of[clothes]) for clothes in {named}}}))
"""


def test_replicas_are_found_and_go_with_the_cure():
    named = REPLICAS if ALL else REPLICAS[:1]
    courses = json.loads(alone(IN_REPLICAS.format(named=named, **PLACE)))
    assert tuple(courses) == named
    for before, after in courses.values():
        check("replicas", None, before, after)


@pytest.mark.parametrize("clothes", HEALTHY if ALL else FEW_HEALTHY)
def test_the_healthy_are_let_go(clothes):
    one = HEALTHY[clothes]()
    report = doctor.examine(one.model, one.train, one.validation, **one.options)
    report.raise_if("error")
    assert sum(finding.severity == "warning" for finding in report.findings) <= 1, report
    assert not {finding.code for finding in report.findings} & set(one.spared), report


def test_what_the_package_lists_is_what_the_rules_say_and_what_the_ward_has():
    table = re.findall(r"^([a-z-]+)  +\S", doctor.__doc__.split("====\ncode")[1], re.MULTILINE)
    assert len(table) == len(set(table))
    assert set(table) == {*wards(), "replicas"}
    rules = {rule.__name__.replace("_", "-") for rule in (*_rules.RULES, _rules.modes_disagree)}
    assert set(table) == rules
    sources = "".join(path.read_text("utf-8") for path in Path(_rules.__file__).parent.glob("*.py"))
    assert set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', sources)) <= set(table)
    chapter = (ROOT / "book" / "wrong.ipynb").read_text("utf-8")
    assert [code for code in table if f"(wrong-{code})=" not in chapter] == []
