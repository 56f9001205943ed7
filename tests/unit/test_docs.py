"""The documentation: generated pages, links, and the messages that a page explains."""

import pathlib
import re

import pytest

from harness import docs, recipe, upstream
from harness.docs import __main__ as command
from harness.docs import markdown, recipe_fields
from harness.recipe import fields

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted(DOCS.rglob("*.md"))
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return {name: page() for name, page in docs.PAGES.items()}


@pytest.mark.parametrize("name", docs.PAGES)
def test_the_page_is_up_to_date(name, made):
    committed = (REFERENCE / name).read_text(encoding="utf-8")
    assert committed == made[name], "run python -m harness.docs"


def test_no_other_page_is_among_the_generated_ones():
    assert sorted(path.name for path in REFERENCE.iterdir()) == sorted(docs.PAGES)


def test_the_command_writes_what_is_stale_alone(tmp_path, capsys):
    assert command.main(["--check", str(tmp_path)]) == 1
    assert command.main([str(tmp_path)]) == 0
    assert command.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "recipe.md").write_text("by hand")
    capsys.readouterr()
    assert command.main(["--check", str(tmp_path)]) == 1
    assert "recipe.md" in capsys.readouterr().out
    assert docs.write(tmp_path) == [tmp_path / "recipe.md"]


def leaves(tree: dict, path: str = "") -> list[str]:
    found = []
    for name, value in tree.items():
        below = isinstance(value, dict) and name != "generations"
        found += leaves(value, f"{path}{name}.") if below else [f"{path}{name}"]
    return found


def test_every_field_of_the_recipe_has_a_type_and_a_description(made):
    lines = [line.split(" | ") for line in made["recipe.md"].splitlines() if line.startswith("| `")]
    found = {cells[0].strip("| `"): cells for cells in lines}
    assert found.keys() >= set(leaves(recipe.to_dict(recipe.load("tiny"))))
    for name, (_, kind, *_, described) in found.items():
        assert kind, name
        assert described.strip("| "), name


def test_the_value_of_a_preset_is_shown_where_it_differs(made):
    (line,) = (each for each in made["recipe.md"].splitlines() if "| `lora.rank`" in each)
    found = (
        "| `lora.rank` | int | `64` | tiny: `16`<br>tiny-gsm8k: `16` | > 0 | Rank of each pair. |"
    )
    assert line == found


@pytest.mark.parametrize(
    ("annotation", "text", "rules"),
    [
        (fields.PositiveInt, "int", ("> 0",)),
        (fields.Fraction | None, "float or `none`", ("≥ 0", "≤ 1")),
        (recipe.Dtype, "`float32` or `bfloat16`", ()),
        (tuple[str, ...], "list of str", ()),
        (recipe.Lora | None, "table or `none`", ()),
    ],
)
def test_a_type_is_taken_apart(annotation, text, rules):
    found = recipe_fields.kind(annotation)
    assert (found.text, found.rules) == (text, rules)


@pytest.mark.parametrize("each", upstream.KNOWN_ISSUES, ids=lambda each: each.id)
def test_a_known_issue_has_its_section(each, made):
    section = made["known_issues.md"].partition(f"### {each.id}\n")[2].partition("\n### ")[0]
    assert f"**Releases**: {', '.join(each.releases)}" in section
    assert all(f"properties.md#{name}" in section for name in each.shown_by)
    fixed = each.fix
    assert f"**Fix**: {markdown.plain(fixed or 'none')}" in section


def test_the_readme_counts_the_known_issues():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    fixed = sum(each.fix is not None for each in upstream.KNOWN_ISSUES)
    assert f"{len(upstream.KNOWN_ISSUES)} issues in Tunix's PPO are known" in text
    assert f"{fixed} are fixed" in text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_a_table_keeps_its_cells_apart():
    assert markdown.table(("a", "b"), [("x|y", "1\n2"), ("`.*|_`", "")]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |\n| <code>.&#42;&#124;&#95;</code> |  |"
    )


def anchors(text: str) -> set[str]:
    """Ids that a page offers to links: of headings and of spans."""
    given = re.findall(r'<span id="([\w-]+)">', text)
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    derived = {re.sub(r"[^\w\s-]", "", each).strip().lower().replace(" ", "-") for each in headings}
    return derived | set(given)


@pytest.mark.parametrize("path", [*FRONT, *PAGES], ids=lambda path: path.stem)
def test_links_within_the_repository_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


def test_the_architecture_names_every_room():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("```text")[2]
    listed = re.findall(r"^  (\w+(?:/|\.py)) ", text.partition("```")[0], re.M)
    there = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "harness").iterdir()
        if not path.name.startswith("__") and (path.is_dir() or path.suffix == ".py")
    ]
    assert sorted(listed) == sorted(there)


# What a person sees; other tests show each with its exit code.
MESSAGES = (
    "it may hold another run",
    "is writing to",
    "give the options with which it began",
    "is refused:",
    "cannot be written (",
    "stopped as asked",
    "is not finite in global step",
    "in global step",
    "when it was tried on",
    "cannot be called with prompts, completions and the columns",
    "took longer than reward.timeout_seconds",
    "which is not a space and one number",
    "does not score as correct",
    "prompts fits rollout.max_prompt_length",
    "which looks like a special token and is encoded as",
    "prompts end in <eos>",
    "all sequences had one reward",
    "does not end where the model's turn begins",
    "are training problems too",
    "the policy before PPO has checksum",
    "hosts are joined here",
    "needs Kaggle credentials and there are none",
    "Kaggle does not take the credentials",
    "is not accepted by this account",
    "Kaggle has no model",
    "Kaggle cannot be reached",
    "cannot be kept in",
    "the handle is not",
    "TensorBoard's figures cannot be written",
    "no TPU is here",
    "does not fit",
    "log-probs differ from",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_explained(message):
    lines = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    assert any(message in line for line in lines if line.startswith("|"))
