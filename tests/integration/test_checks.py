"""Properties and known_issues as they are declared, and the command that runs them."""

import json
import re

import numpy as np
import pytest

from harness import checks, upstream
from harness.checks import runner
from harness.checks.property import EXACT, Comparison, Property, Tolerance, difference
from tests.support.cli import ROOT, call

NEAR = Tolerance(0, 0.1, "of a test")


@pytest.mark.parametrize("each", checks.PROPERTIES, ids=lambda each: each.id)
def test_a_property_says_all_that_a_reader_needs(each):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", each.id)
    assert each.statement.endswith(".")
    assert each.area
    assert each.tolerance.why
    assert each.slow or each.wrong, "nothing is known that would break it"


def test_ids_are_unique():
    for named in (checks.PROPERTIES, upstream.KNOWN_ISSUES):
        ids = [each.id for each in named]
        assert len(ids) == len(set(ids))


def test_known_issues_and_properties_name_each_other():
    by_property = {
        (name, each.id) for each in checks.PROPERTIES if not each.slow for name in each.defects
    }
    by_defect = {(each.id, shown) for each in upstream.KNOWN_ISSUES for shown in each.shown_by}
    assert by_property == by_defect


# Fixed, and shown by their reproductions alone: a training shows them only as it ends, or when
# garbage is collected just while a program is traced.
WITHOUT_PROPERTY = {"critic-last-metric-after-close", "sampler-state-static-array"}


def test_every_fix_has_a_probe_and_a_property_or_a_reason_to_have_none():
    for each in upstream.KNOWN_ISSUES:
        assert bool(each.fix) == bool(each.probe), each.id
        assert not each.fix or each.shown_by or each.id in WITHOUT_PROPERTY


@pytest.mark.parametrize(
    ("got", "want", "tolerance"),
    [
        (1.0, 1.2, NEAR),
        (np.nan, 1.0, NEAR),
        (np.nan, np.nan, NEAR),
        (np.zeros(2), np.zeros(3), NEAR),
        (np.zeros(0), np.zeros(0), NEAR),
        (np.array([1, 2]), np.array([1, 3]), NEAR),
        (1.0, 1.0 + 1e-15, EXACT),
        (True, False, EXACT),
    ],
)
def test_a_difference_is_reported(got, want, tolerance):
    assert "this" in str(difference(Comparison("this", got, want), tolerance))


@pytest.mark.parametrize(
    ("got", "want", "tolerance"),
    [(1.0, 1.05, NEAR), (np.arange(3), np.arange(3), EXACT), (["a"], ["a"], EXACT)],
)
def test_agreement_is_not(got, want, tolerance):
    assert difference(Comparison("this", got, want), tolerance) is None


def test_a_property_that_compares_nothing_does_not_hold():
    empty = Property("x", "x", "X.", EXACT, lambda context: {}, lambda seen, known: iter(()), {})
    assert empty.judge({}) == ["nothing was compared"]


def test_one_property_is_checked_and_written(capsys, tmp_path):
    file = tmp_path / "found.json"
    code, out, err = call(capsys, "check", "--only", "scored-transcripts", "--json", file)
    assert (code, err) == (0, "")
    assert "as known" in out
    (found,) = json.loads(file.read_text())["properties"]
    assert (found["id"], found["status"]) == ("scored-transcripts", "pass")
    assert found.keys() >= {"id", "area", "status", "tolerance", "statement"}


def test_an_unknown_property_is_refused(capsys):
    code, _, err = call(capsys, "check", "--only", "nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no property 'nothing': use one of old-log-probs" in err


@pytest.mark.parametrize("each", upstream.KNOWN_ISSUES, ids=lambda each: each.id)
def test_an_entry_is_explained_with_a_script_on_tunix_alone(each, capsys):
    code, out, _ = call(capsys, "check", "--explain", each.id)
    assert code == 0
    assert each.title in out
    assert each.where in out
    script = upstream.reproduction(each.id)
    assert script.rstrip() in out
    assert not re.search(r"^\s*(import|from) harness", script, re.M)


def test_a_property_is_explained_too_and_nothing_else(capsys):
    _, out, _ = call(capsys, "check", "--explain", "adamw")
    assert "Tolerance: 0.0001 relative" in out
    code, _, err = call(capsys, "check", "--explain", "nothing")
    assert code == 2
    assert "there is no known issue 'nothing'" in err


def test_a_reproduction_shows_its_defect():
    name = "epsilon-zero-ignored"
    found = runner.run_reproduction(name)
    # A release of Tunix in which it is fixed shows nothing.
    assert found.shows is (name in upstream.present())
    assert "expected:" in found.output


def test_what_is_run_is_the_script_that_is_shown(monkeypatch):
    asked = []
    script = "print('expected: 1'); print('got: 2')"
    monkeypatch.setattr(upstream, "reproduction", lambda name: asked.append(name) or script)
    found = runner.run_reproduction("noise-repeats")
    assert asked == ["noise-repeats"]
    assert (found.shows, found.output) == (True, "expected: 1\ngot: 2")


def test_a_reproduction_that_crashes_shows_nothing(monkeypatch):
    monkeypatch.setattr(upstream, "reproduction", lambda name: "raise RuntimeError('no model')")
    found = runner.run_reproduction("whiten-one-token")
    assert found.shows is None
    assert "no model" in found.output


def test_a_fix_that_is_needed_no_more_is_reported_loudly(monkeypatch):
    present = tuple(name for name in upstream.present() if name != "noise-repeats")
    monkeypatch.setattr(upstream, "present", lambda: present)
    asked_of_another = runner.check(only=["scored-transcripts"])
    assert asked_of_another.gone == []
    everything = runner.Report(
        "patched",
        "9",
        [],
        [
            runner.Finding(each, each.id in present, False, None)
            for each in upstream.KNOWN_ISSUES
            if each.probe
        ],
    )
    assert everything.gone == ["noise-repeats"]


def test_every_tolerance_has_a_row():
    text = (ROOT / "docs" / "tolerances.md").read_text()
    for each in checks.PROPERTIES:
        assert f"| `{each.id}` |" in text, each.id
