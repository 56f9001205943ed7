"""Words that this project retired, each because another word says the same more plainly.

`FOLDERS` are read, this file apart.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = (
    *("harness", "tests", "benchmarks", "examples", "docs", "noxfile.py"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
)
# Names of the library that pages and examples have to use as they are.
AS_THE_LIBRARY_HAS_THEM = ("sampler-tells-its-law", "draws-follow-the-law")
SUFFIXES = (".md", ".py", ".toml", ".yml", ".html", ".css")

# Patterns over words in lower case, a single space between any two: identifiers
# are split at underscores and capitals.
RETIRED = {
    r"(un)?m" r"end(s|ed|ing|able)?": "fix, patched",
    r"ledgers?": "known issues",
    r"walls?(?! (time|clock))": "largest micro-batch that fits",
    r"laws?": "distribution",
    r"ears?|heard|hears?": "recorder, record",
    r"observator(y|ies)|labs?": "context",
    r"tells? whether": "return whether",
    r"told": "reported",
    r"own words": "message",
    r"take(s|n)? back|took back": "roll back",
    r"(tell|tells|told) again": "replay",
    r"rewind(s|ing)?|rewound": "truncate",
    r"surprises?|surprising": "warning",
    r"rulers?": "measurement code",
    r"end tokens": "stop tokens",
    r"weighed examples?": "weighted example",
    r"nobody": "say who or what",
    r"whoever": "say who",
}


def words(text: str) -> str:
    """Return a text in lower case, its identifiers as words, with single spaces."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", " ", text)
    return " ".join(apart.lower().split())


def retired(text: str) -> list[str]:
    """Return each retired word in a text, with what is around it and what to say instead."""
    for name in AS_THE_LIBRARY_HAS_THEM:
        text = text.replace(name, "")
    found = words(text)
    return [
        f"...{found[max(match.start() - 30, 0) : match.end() + 30]}...: say {instead}"
        for pattern, instead in RETIRED.items()
        for match in re.finditer(rf"\b({pattern})\b", found)
    ]


def files() -> list[pathlib.Path]:
    found = []
    for name in FOLDERS:
        path = ROOT / name
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    this = pathlib.Path(__file__).resolve()
    return [path for path in found if path.suffix in SUFFIXES and path != this]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_retired_word(path):
    assert retired(path.read_text(encoding="utf-8")) == []


# A docstring is an order: "Return the ...".
STARTS = re.compile(r"(Gives|Tells|Says|Makes|Reads|Returns|Looks|Holds|Keeps|Takes)\b")


def starts(source: str) -> list[str]:
    """Return the first lines of docstrings that describe a caller instead of giving an order."""
    nodes = (ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(ast.parse(source)) if isinstance(node, nodes)]
    first = [(ast.get_docstring(node) or "").partition("\n")[0] for node in documented]
    return [line for line in first if STARTS.match(line)]


@pytest.mark.parametrize(
    "path",
    [path for path in files() if path.suffix == ".py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_docstrings_of_functions_are_imperative(path):
    assert starts(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "the unm" + "ended loss",
        "Men" + "dedLoss",
        "take_" + "back(point)",
        "what it is to" + "ld by",
        "the out-of-memory wa" + "ll",
        "No" + "body",
        "a\nled" + "ger",
    ],
)
def test_a_retired_word_is_seen_in_every_form(text):
    assert retired(text)


@pytest.mark.parametrize(
    "text", ["amendment", "wall time", "early", "a table of rows", "flawless", "collaboration"]
)
def test_other_words_are_not_taken_for_retired_ones(text):
    assert retired(text) == []


def test_a_docstring_that_does_not_give_an_order_is_seen():
    assert starts('def f():\n    """Gives one."""') == ["Gives one."]
    assert starts('def f():\n    """Return one."""') == []
