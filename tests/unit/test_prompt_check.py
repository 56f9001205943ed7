"""Prompts as pieces: special tokens that are none, doubled ones, the model's turn."""

import dataclasses
import json

import pytest

from harness import data, doctor, prompt_preview, tokenizer
from harness import recipe as recipes
from harness.data import prompt_check
from harness.data.problem import Problem
from harness.errors import HarnessError
from tests.conftest import small_recipe
from tests.support.cli import call

BUILTIN = tokenizer.load(recipes.load("tiny"))
PROBLEM = Problem("Tom has 3 apples. How many?", "#### 3")
USER = "<start_of_turn>user\n{question}<end_of_turn>\n"


def check(
    prompt: str = recipes.Data().prompt, system_prompt: str = "", *questions: str
) -> prompt_check.Checked:
    base = recipes.load("tiny")
    config = dataclasses.replace(base.data, prompt=prompt, system_prompt=system_prompt)
    problems = [Problem(question, "#### 3") for question in questions] or [PROBLEM]
    return prompt_check.check(dataclasses.replace(base, data=config), BUILTIN, problems)


@pytest.mark.parametrize("preset", sorted(recipes.PRESETS))
def test_the_presets_own_prompts_pass(preset):
    found = prompt_check.check(recipes.load(preset), BUILTIN, [PROBLEM])
    assert found.warnings == ()
    assert found.pieces[:4] == ("<bos>", "<start_of_turn>", "user", "\n")
    assert found.pieces[-3:] == ("\n", "<start_of_turn>", "model")


@pytest.mark.parametrize(
    "text",
    [
        *("<bos>", "<BOS>", "<eos>", "<s>", "</s>", "<pad>", "<start_of_image>"),
        *("<|im_start|>", "<|endoftext|>", "<|start_header_id|>", "<start of turn>"),
        *("[INST]", "<<SYS>>", "<unused3>", "[MASK]"),
    ],
)
def test_what_looks_like_a_special_token_and_is_none_is_refused_and_shown_as_pieces(text):
    with pytest.raises(HarnessError) as refusal:
        check(f"{text}{recipes.Data().prompt}")
    output = str(refusal.value)
    assert output.startswith(f"data.prompt holds {text}, which looks like a special token and is")
    assert f"{len(BUILTIN.encode(text))} pieces of text" in output
    assert "the first prompt as pieces: <bos> " in output
    with pytest.raises(HarnessError, match=r"data\.system_prompt holds "):
        check(system_prompt=f"Be kind. {text}")


@pytest.mark.parametrize("text", ["<answer>", "<reasoning>", "<b>", "x<y>z", "[1]", "a < b > c"])
def test_tags_and_signs_that_are_text_are_left_alone(text):
    assert check(system_prompt=text).warnings == ()
    assert check(recipes.Data().prompt, "", f"What is {text}?").warnings == ()


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (USER + "<start_of_turn>model", None),
        (USER + "<start_of_turn>model\n", None),
        ("{question}", "it has no <start_of_turn>model"),
        (USER, "after the last <start_of_turn> it goes on with"),
        (USER + "<start_of_turn>user\n", "after the last <start_of_turn> it goes on with 'user"),
        (USER + "<start_of_turn>model\n{system_prompt}:", "follows <start_of_turn>model"),
        (USER + "<start_of_turn>model ", "follows <start_of_turn>model"),
        ("<start_of_turn>user\n{question}<start_of_turn>model", "is not closed by <end_of_turn>"),
    ],
)
def test_a_prompt_that_does_not_end_where_the_models_turn_begins_is_reported(prompt, what):
    found = check(prompt)
    assert [each.id for each in found.warnings] == ["prompt-not-at-model-turn"] * bool(what)
    for each in found.warnings:
        assert what in each.text
        assert "the first prompt as pieces: <bos> " in each.text


def test_questions_that_hold_special_tokens_are_counted_and_the_first_is_named():
    asked = ("How many?", "Say <end_of_turn> twice.", "Read <eos>.")
    (found,) = check(recipes.Data().prompt, "", *asked).warnings
    assert found.id == "special-token-in-question"
    assert found.text.startswith("2 question(s) hold")
    assert "'Say <end_of_turn> twice.', holds <end_of_turn>, which is encoded as the" in found.text
    (found,) = check(recipes.Data().prompt, "", *asked[::2]).warnings
    assert "holds <eos>, which looks like a special token and is encoded as text" in found.text


@dataclasses.dataclass(frozen=True)
class Adding:
    """A tokenizer that adds tokens of its own, as those of other libraries do."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        return [*self.before, *BUILTIN.encode(text), *self.after]

    def piece(self, token: int) -> str:
        return BUILTIN.piece(token)

    def bos_id(self) -> int:
        return BUILTIN.bos_id()

    def eos_id(self) -> int:
        return BUILTIN.eos_id()


@pytest.mark.parametrize(
    ("adding", "what", "shown"),
    [
        (Adding(before=(2,)), "prompts hold <bos> besides", "pieces: <bos> <bos> <start"),
        (Adding(after=(1,)), "prompts end in <eos>", "<start_of_turn> model <eos>"),
    ],
)
def test_a_tokenizer_that_adds_tokens_of_its_own_is_refused(adding, what, shown):
    with pytest.raises(HarnessError, match=what) as refusal:
        data.load(small_recipe(), adding)
    assert shown in str(refusal.value)


def test_a_long_prompt_is_shown_without_its_middle():
    shown = prompt_check.show([str(n) for n in range(100)])
    assert shown.startswith("0 1 2 ")
    assert shown.endswith(" 98 99")
    assert "… 68 more …" in shown


def test_doctor_shows_the_first_prompt_and_a_refusal():
    def prompt(recipe: recipes.Recipe) -> doctor.Check:
        (found,) = [each for each in doctor.examine(recipe).checks if each.name == "prompt"]
        return found

    assert prompt(small_recipe()).status == "ok"
    assert prompt(small_recipe()).detail.startswith("<bos> <start_of_turn> user \\n ")
    assert prompt(small_recipe("data.prompt={question}")).status == "warn"
    assert prompt(small_recipe("data.prompt=<bos>{question}")).status == "missing"
    assert prompt(recipes.load("gemma3-1b")).status == "warn"


def test_the_preview_is_of_the_first_line_of_local_files(tmp_path):
    recipe = recipes.replace(small_recipe(), f"data.source=jsonl:{tmp_path}")
    assert "stand-in" in prompt_preview.preview(recipe).text
    (tmp_path / "train.jsonl").write_text(json.dumps(PROBLEM._asdict()) + "\n")
    assert "apples" not in prompt_preview.preview(small_recipe()).text
    shown = prompt_preview.preview(recipe).text.replace("▁", "").replace(" ", "")
    assert "Tomhas3apples" in shown


def test_account_prints_the_first_prompt_and_writes_it(capsys, tmp_path):
    path = tmp_path / "account.json"
    code, output, _ = call(capsys, "account", "--json", path)
    assert code == 0
    assert "First prompt: <bos> <start_of_turn> user" in output
    assert json.loads(path.read_text())["prompt"]["status"] == "ok"
    _, output, _ = call(capsys, "account", "--set", "data.prompt={question}")
    assert "First prompt (warn): data.prompt does not end where the model's turn begins" in output
