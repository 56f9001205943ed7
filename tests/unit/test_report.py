"""The page: what it reads, what it shows, and what it must never hold."""

import html.parser
import json
import pathlib
import re
import subprocess
import sys

import pytest

from harness import cli, report
from harness.errors import HarnessError
from harness.report import page, reading, verdicts
from tests.support import report_samples as samples

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}


class Reader(html.parser.HTMLParser):
    """Reads a page strictly: tags must be balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.figures = [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figure":
            self.figures.append(set())
        if "basis" in (given.get("class") or "").split() and "figure" in self.open:
            self.figures[-1] |= set((given["class"] or "").split()) - {"basis"}

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def parsed(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def made(folder: pathlib.Path, **trees) -> Reader:
    return parsed(report.make([samples.write(folder, **trees)])[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    folder = samples.write(tmp_path_factory.mktemp("all"))
    return report.make([folder])[0]


@pytest.mark.parametrize("kind", samples.ALL)
def test_a_kind_is_recognised_by_what_the_file_holds(kind, tmp_path):
    samples.write(tmp_path, anything=samples.ALL[kind]())
    assert [each.kind for each in reading.read([tmp_path]).used] == [kind]


def test_a_check_that_names_its_schema_is_recognised_too(tmp_path):
    samples.write(tmp_path, a=samples.check() | {"schema": "tunix-ppo-harness/check/2"})
    assert [each.kind for each in reading.read([tmp_path]).used] == ["check"]


def test_a_folder_reports_what_was_skipped_and_a_file_counts_once(tmp_path):
    deep = tmp_path / "runs" / "1"
    deep.mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    samples.write(deep, result=samples.run(), other={"schema": "tunix-ppo-harness/progress/1"})
    samples.write(tmp_path / ".hidden", result=samples.run())
    found = reading.read([deep / "result.json", tmp_path])
    assert [each.path for each in found.used] == [deep / "result.json"]
    assert [(each.path.name, each.why) for each in found.skipped] == [
        ("other.json", "schema 'tunix-ppo-harness/progress/1'")
    ]


def test_results_of_one_kind_are_numbered_in_the_order_given(tmp_path):
    samples.write(tmp_path, b=samples.run(seed=1), a=samples.run(), p=samples.plan())
    found = reading.read([tmp_path / "b.json", tmp_path / "a.json", tmp_path / "p.json"])
    assert [(each.name, each.path.stem) for each in found.used] == [
        ("run 1", "b"),
        ("run 2", "a"),
        ("plan", "p"),
    ]


def test_the_page_of_all_kinds_is_well_formed(whole):
    tags = [tag for tag, _ in parsed(whole).tags]
    assert tags.count("title") >= 1
    assert tags.count("h1") == tags.count("main") == 1
    ids = [given["id"] for _, given in parsed(whole).tags if "id" in given]
    assert len(ids) == len(set(ids))


def test_the_page_needs_no_other_file(whole):
    reader = parsed(whole)
    for tag, given in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base")
        assert given.get("href", "#").startswith("#")
        assert not {"src", "srcset", "xlink:href", "data", "poster"} & given.keys()
        assert not any(name.startswith("on") for name in given)
    assert not re.search(r"https?:|//\w|url\(|@import", whole)


def test_every_figure_shows_its_basis(whole):
    figures = parsed(whole).figures
    assert len(figures) >= 10
    assert all(figures)
    assert set.union(*figures) == set(page.BASES)


def test_every_chart_has_a_text_alternative(whole):
    drawings = [given for tag, given in parsed(whole).tags if tag == "svg"]
    assert drawings
    assert all(given["role"] == "img" and len(given["aria-label"]) > 10 for given in drawings)


def test_every_table_has_a_caption_and_heads(whole):
    tags = [tag for tag, _ in parsed(whole).tags]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") > 5
    heads = [given for tag, given in parsed(whole).tags if tag == "th"]
    assert all(given["scope"] in ("row", "col") for given in heads)


def test_the_same_results_make_the_same_page(whole, tmp_path, monkeypatch):
    samples.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert report.make([pathlib.Path()])[0] == report.make([pathlib.Path()])[0]


HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=y>&amp;{{ 7*7 }}\ud800"


def poisoned(tree, choices=("schema", "status", "verdict", "version", "tier")):
    """Put hostile words instead of every string that is not a choice of few."""
    if isinstance(tree, dict):
        return {
            key: value if key in choices else poisoned(value, choices)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [poisoned(each, choices) for each in tree]
    return HOSTILE if isinstance(tree, str) else tree


@pytest.mark.parametrize("kind", samples.ALL)
def test_words_from_files_stay_words(kind, tmp_path):
    reader = made(tmp_path, a=poisoned(samples.ALL[kind]()))
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, given in reader.tags for name in given)
    assert "<script>alert(1)</script>" in reader.text
    assert "{{ 7*7 }}" in reader.text


def test_a_file_name_stays_words(tmp_path):
    samples.write(tmp_path, **{"<b>bold<i>": samples.check()})
    reader = parsed(report.make([tmp_path])[0])
    assert "<b>bold<i>.json" in reader.text
    assert "i" not in {tag for tag, _ in reader.tags}


MISSING = {
    "run": "No run was given",
    "check": "No check was given",
    "plan": "No plan was given",
    "bench": "No benchmarks were given",
    "gate": "No gate was given",
}


@pytest.mark.parametrize("kind", samples.ALL)
def test_what_is_not_given_is_shown_as_missing(kind, tmp_path):
    text = made(tmp_path, a=samples.ALL[kind]()).text
    assert [name for name, output in MISSING.items() if output not in text] == [kind]


PARTS = {
    "no steps": (lambda: samples.run() | {"steps": []}, "holds no step of training"),
    "no largest micro-batches": (lambda: samples.plan(sweep=False), "was not searched for"),
    "no bounds": (lambda: samples.plan() | {"roofline": {}}, "holds no bound of time"),
    "no phases": (lambda: samples.plan() | {"phases": []}, "holds no phase"),
    "no benchmarks": (lambda: samples.bench() | {"benchmarks": []}, "holds no timed benchmark"),
    "no properties": (lambda: samples.check() | {"properties": []}, "no property was checked"),
    "no defects": (lambda: samples.check() | {"defects": []}, "no known issue is listed"),
    "no findings": (lambda: samples.gate() | {"findings": []}, "nothing was compared"),
    "a tier": (samples.gate, "the learning tier was not run"),
    "no environment": (
        lambda: samples.gate() | {"environment": {}},
        "No environment is reported by: gate",
    ),
}


@pytest.mark.parametrize(("make", "output"), PARTS.values(), ids=PARTS)
def test_a_part_that_a_result_lacks_is_shown_as_missing(make, output, tmp_path):
    assert output in made(tmp_path, a=make()).text


def test_a_reward_that_is_not_finite_breaks_the_curve_and_is_counted(tmp_path):
    tree = samples.run()
    tree["steps"][3]["reward_mean"] = float("nan")
    tree["steps"][4]["reward_mean"] = None
    assert "2 of 40 steps have no finite reward" in made(tmp_path, a=tree).text


def test_an_interrupted_run_is_shown_as_such(tmp_path):
    output = "resumed from optimizer step 40"
    assert output in made(tmp_path, a=samples.run() | {"resumed_at": 40}).text
    assert output not in made(tmp_path, a=samples.run()).text


def test_the_largest_size_is_drawn_on_memory_and_on_time(tmp_path):
    text = report.make([samples.write(tmp_path, a=samples.plan())])[0]
    section = text[text.index('<section id="sizes"') : text.index('<section id="time"')]
    memory_, _, time = section.partition("Least time against micro-batch")
    # Each chart is drawn twice, for a desk and for a phone.
    assert memory_.count(">fits 12</text>") == memory_.count(">about 6</text>") == 2
    # Of the two, the nearer: what fits beside the rest.
    assert time.count(">about 6</text>") == 2
    assert ">fits 12</text>" not in time


def words(folder: pathlib.Path) -> list[str]:
    text = report.make([folder])[0]
    return re.findall(r'<span class="word">([^<]*)</span>', text)


def test_verdicts_are_shown_worst_first(tmp_path):
    samples.write(
        tmp_path,
        a=samples.run(),
        b=samples.check(returns="fail"),
        c=samples.plan(),
        d=samples.bench(),
        e=samples.gate("INCONCLUSIVE"),
    )
    assert words(tmp_path) == ["NOT AS KNOWN", "INCONCLUSIVE", "LEARNED", "FITS", "TIMED"]


ANSWERS = {
    "learned": (lambda: samples.run(0.3, 0.8), "LEARNED"),
    "did not learn": (lambda: samples.run(0.3, 0.32), "NO GAIN"),
    "unlearned": (lambda: samples.run(0.5, 0.2), "GOT WORSE"),
    "as known": (lambda: samples.check(a="pass", b="known-defect"), "AS KNOWN"),
    "a failure": (lambda: samples.check(a="pass", b="fail"), "NOT AS KNOWN"),
    "an error": (lambda: samples.check(a="pass", b="error"), "NOT AS KNOWN"),
    "nothing looked at": (lambda: samples.check() | {"properties": []}, "NOTHING CHECKED"),
    "fits": (lambda: samples.plan(31 * samples.GIB), "FITS"),
    "does not fit": (lambda: samples.plan(31 * samples.GIB + 1), "DOES NOT FIT"),
    "not comparable": (lambda: samples.gate("NOT COMPARABLE"), "NOT COMPARABLE"),
}


@pytest.mark.parametrize(("make", "word"), ANSWERS.values(), ids=ANSWERS)
def test_a_result_gets_its_word(make, word, tmp_path):
    samples.write(tmp_path, a=make())
    assert words(tmp_path) == [word]


def test_a_check_is_judged_by_its_properties_not_by_its_own_word(tmp_path):
    samples.write(tmp_path, a=samples.check(a="fail") | {"ok": True})
    assert words(tmp_path) == ["NOT AS KNOWN"]


def test_a_program_that_the_compiler_refused_does_not_fit(tmp_path):
    tree = samples.plan()
    tree["phases"][0] |= {"peak_bytes": None, "fits": False, "parts": []}
    tree["programs"][0] |= {"peak_bytes": None, "fits": False}
    tree["programs"][0]["refused"] = {"message": "it would take 99 GiB"}
    reader = made(tmp_path, a=tree)
    assert "DOES NOT FIT" in reader.text
    assert "the compiler refused actor step" in reader.text
    assert "it would take 99 GiB" in reader.text


def test_what_differs_between_environments_is_marked(tmp_path):
    other = samples.run(seed=1)
    other["environment"] = samples.ENVIRONMENT | {"python": "3.12.1"}
    samples.write(tmp_path, a=samples.run(), b=other)
    rows = verdicts.environment(reading.read([tmp_path])).parts[0]
    assert isinstance(rows, page.Table)
    marked = [tuple(row.values()) for row, tone in zip(rows.rows, rows.tones, strict=True) if tone]
    assert marked == [("Python", "3.11.7", "run 1"), ("Python", "3.12.1", "run 2")]


BAD = {
    "nothing there": ({}, ["missing"], "missing cannot be read"),
    "an empty folder": ({}, ["."], "there is no result in"),
    "not JSON": ({"a": '{"schema": '}, ["a.json"], "a.json is not JSON"),
    "not JSON, in a folder": ({"a": "{"}, ["."], "a.json is not JSON"),
    "nested without end": ({"a": "[" * 100_000}, ["a.json"], "nested too deeply"),
    "no object": ({"a": "[1]"}, ["a.json"], "a.json is no result (it holds no JSON object)"),
    "no schema": ({"a": "{}"}, ["a.json"], "a.json is no result (it names no schema)"),
    "an unknown schema": ({"a": '{"schema": "x/1"}'}, ["a.json"], "unknown schema 'x/1'"),
    "a later schema": (
        {"a": '{"schema": "tunix-ppo-harness/result/9"}'},
        ["."],
        "does not know: read it with the version that wrote it",
    ),
    "a part is missing": (
        {"a": json.dumps({k: v for k, v in samples.run().items() if k != "trained"})},
        ["a.json"],
        "is of kind run, but trained: Field required",
    ),
    "a part is of another type": (
        {"a": json.dumps(samples.plan() | {"hbm_bytes": "many"})},
        ["a.json"],
        "is of kind plan, but hbm_bytes",
    ),
    "a share beyond one": (
        {"a": json.dumps(samples.run(0.3, 1.7))},
        ["a.json"],
        "is of kind run, but trained.accuracy",
    ),
    "another pytest-benchmark": (
        {"a": json.dumps(samples.bench() | {"version": "3.2.0"})},
        ["a.json"],
        "written by pytest-benchmark 3.2.0",
    ),
    "no arguments": ({}, [], "Missing argument"),
}


@pytest.mark.parametrize(("texts", "arguments", "output"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_no_page(
    texts, arguments, output, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", *arguments, "--out", "page.html"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert output in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_leaves_what_stood_there(tmp_path, capsys):
    samples.write(tmp_path, a=samples.check())
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path), "--out", str(tmp_path / "no" / "page.html")])
    assert ended.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_writes_the_page_and_prints_what_it_used(tmp_path, capsys):
    samples.write(tmp_path, a=samples.check(), b={"schema": "else"})
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"check: {tmp_path / 'a.json'}" in out
    assert f"skipped {tmp_path / 'b.json'}: unknown schema 'else'" in out
    parsed((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_the_page_is_made_without_jax_and_tunix(tmp_path):
    samples.write(tmp_path)
    code = (
        "import pathlib, sys\n"
        "from harness import report\n"
        "report.make([pathlib.Path(sys.argv[1])])\n"
        "print(sorted({'jax', 'tunix', 'flax'} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_without_what_the_page_is_made_with_the_extra_is_named(name, tmp_path, monkeypatch):
    samples.write(tmp_path, a=samples.check())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HarnessError, match=rf"{name}.*pip install 'tunix-ppo-harness\[report\]'"):
        report.make([tmp_path])


def test_warnings_of_a_run_are_shown(tmp_path):
    warnings = [{"id": "memory-tight", "text": "0.3 GiB are left."}]
    text = made(tmp_path, a=samples.run() | {"warnings": warnings}).text
    assert "Warnings of run" in text
    assert "memory-tight" in text
    assert "0.3 GiB are left." in text
    assert "Warnings of" not in made(tmp_path, a=samples.run()).text
