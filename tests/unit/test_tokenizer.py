"""Properties of the tokenizers and of the making of the small one."""

import hashlib
import io
import pathlib
import re

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tunix.generate import tokenizer_adapter

from harness import recipe as recipes
from harness import tokenizer
from harness.data import arithmetic, prompt
from harness.errors import HarnessError

TINY = recipes.load("tiny")
BUILTIN = tokenizer.load(TINY)
ASSET = pathlib.Path(tokenizer.__file__).parent / "assets" / "tiny_tokenizer.model"

GEMMA_ROLES = {
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
    "unk_piece": "<unk>",
    "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>"],
}


def _sentencepiece_model(**changes: object) -> bytes:
    """A minimal model with Gemma's roles, but for the changes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["a bag of apples", "a box of pears"]),
        model_writer=model,
        **{
            "model_type": "char",
            "vocab_size": 30,
            "hard_vocab_limit": False,
            "add_dummy_prefix": False,
            "minloglevel": 2,
            **GEMMA_ROLES,
            **changes,
        },
    )
    return model.getvalue()


def _recipe(*assignments: str) -> recipes.Recipe:
    return recipes.replace(TINY, *assignments)


def _number_ids(ids: list[int]) -> list[list[int]]:
    """The maximal runs of digit tokens."""
    digits = {BUILTIN.piece_id(digit) for digit in "0123456789"}
    runs: list[list[int]] = [[]]
    for i in ids:
        if i in digits:
            runs[-1].append(i)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def test_builtin_special_tokens_have_gemma_3_ids():
    assert (BUILTIN.pad_id(), BUILTIN.eos_id(), BUILTIN.bos_id()) == (0, 1, 2)
    assert [BUILTIN.piece_id(p) for p in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]


def test_builtin_fits_the_tiny_model_exactly():
    assert BUILTIN.vocab_size == TINY.model.vocab_size


def test_sha256_is_that_of_the_model_file():
    assert BUILTIN.sha256 == hashlib.sha256(ASSET.read_bytes()).hexdigest()


def test_training_again_gives_the_committed_bytes(tmp_path):
    tokenizer.train(tmp_path / "again.model")
    assert (tmp_path / "again.model").read_bytes() == ASSET.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.model"]


def test_training_never_overwrites(tmp_path):
    path = tmp_path / "mine.model"
    path.write_bytes(b"mine")
    with pytest.raises(HarnessError, match=r"mine\.model exists already"):
        tokenizer.train(path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("vocab_size", "remedy"), [(100, r"choose at least \d+$"), (100_000, r"choose at most \d+$")]
)
def test_an_impossible_vocabulary_size_is_refused_and_writes_nothing(tmp_path, vocab_size, remedy):
    with pytest.raises(HarnessError, match=f"{vocab_size} pieces cannot be made: {remedy}"):
        tokenizer.train(tmp_path / "new.model", vocab_size=vocab_size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vocab_size", [100, 100_000])
def test_the_vocabulary_size_named_in_the_refusal_is_possible(tmp_path, vocab_size):
    with pytest.raises(HarnessError) as refusal:
        tokenizer.train(tmp_path / "new.model", vocab_size=vocab_size)
    (limit,) = re.findall(r"choose at \w+ (\d+)$", str(refusal.value))
    tokenizer.train(tmp_path / "new.model", vocab_size=int(limit))
    made = tokenizer.load(_recipe(f"model.tokenizer={tmp_path}/new.model", "model.vocab_size=9999"))
    assert made.vocab_size == int(limit)


def test_training_into_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        tokenizer.train(tmp_path / "file" / "new.model")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_any_text_without_markers_comes_back(text):
    assert BUILTIN.decode(BUILTIN.encode(text)) == text


def test_newline_is_its_own_piece():
    newline = BUILTIN.piece_id("\n")
    assert BUILTIN.encode("\n") == [newline]
    assert BUILTIN.encode("\n\n").count(newline) == 2
    assert BUILTIN.encode("user\nmodel").count(newline) == 1


@given(st.integers(min_value=0), st.sampled_from(["", " ", "#### ", "costs $", "has ", "-", "x"]))
def test_a_number_is_written_digit_by_digit_wherever_it_stands(number, before):
    digits = [BUILTIN.piece_id(digit) for digit in str(number)]
    assert _number_ids(BUILTIN.encode(f"{before}{number}, then")) == [digits]


def test_question_and_answer_write_a_number_alike():
    config = recipes.Arithmetic(
        train_problems=300, test_problems=1, max_operand=99, operations=("+", "-")
    )
    for problem in arithmetic.problems(config)[0]:
        asked = _number_ids(BUILTIN.encode(problem.question))
        worked = _number_ids(BUILTIN.encode(problem.answer))
        assert worked[:2] == asked
        assert worked[-1] == worked[-2]


def test_a_completion_of_the_built_in_problems_fits_the_tiny_preset():
    longest = f"\n#### {2 * TINY.data.arithmetic.max_operand}<end_of_turn>"
    assert len(BUILTIN.encode(longest)) <= TINY.rollout.max_new_tokens


@pytest.mark.parametrize("max_operand", [9, 99])
def test_prompts_of_the_built_in_problems_are_short(max_operand):
    config = recipes.Arithmetic(max_operand=max_operand, operations=("+", "-"))
    for problem in arithmetic.problems(config)[0]:
        ids = BUILTIN.encode(prompt.format_prompt(TINY.data, problem.question))
        assert len(ids) + 1 <= 24
        assert 3 not in ids


def test_turn_markers_in_a_prompt_are_single_tokens():
    ids = BUILTIN.encode(prompt.format_prompt(TINY.data, "How many?"))
    start, end = BUILTIN.piece_id("<start_of_turn>"), BUILTIN.piece_id("<end_of_turn>")
    assert [i for i in ids if i in (start, end)] == [start, end, start]
    assert ids[0] == start


def test_encode_adds_no_bos():
    assert BUILTIN.bos_id() not in BUILTIN.encode("<bos>How many?")


def test_decode_leaves_out_padding_and_markers():
    text = "\n#### 12"
    start, end = BUILTIN.piece_id("<start_of_turn>"), BUILTIN.piece_id("<end_of_turn>")
    assert BUILTIN.decode([0, 2, start, *BUILTIN.encode(text), end, 1, 0, 0]) == text


def test_decode_shows_an_id_past_the_vocabulary():
    shown = BUILTIN.decode([*BUILTIN.encode("12"), BUILTIN.vocab_size, *BUILTIN.encode("34")])
    assert shown == BUILTIN.decode([*BUILTIN.encode("12"), 3, *BUILTIN.encode("34")])
    assert "1234" not in shown


def test_tunix_takes_it_as_a_tokenizer():
    adapter = tokenizer_adapter.TokenizerAdapter(BUILTIN)
    ids = adapter.encode("Tom has 3 apples.")
    assert adapter.decode(ids) == "Tom has 3 apples."
    assert (adapter.pad_id(), adapter.eos_id(), adapter.bos_id()) == (0, 1, 2)


def test_end_ids_are_in_order_and_distinct():
    end = BUILTIN.piece_id("<end_of_turn>")
    assert BUILTIN.end_ids(["<end_of_turn>", "<eos>", "<end_of_turn>"]) == (end, 1)


def test_a_missing_piece_is_named():
    with pytest.raises(HarnessError, match="builtin has no piece '<end_of_answer>'"):
        BUILTIN.end_ids(["<eos>", "<end_of_answer>"])


def test_the_unknown_piece_has_an_id():
    assert BUILTIN.piece_id("<unk>") == 3


def test_a_path_loads_the_file(tmp_path):
    path = tmp_path / "copy.model"
    path.write_bytes(ASSET.read_bytes())
    assert tokenizer.load(_recipe(f"model.tokenizer={path}")).sha256 == BUILTIN.sha256


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["weights/tokenizer.model"], "weights/tokenizer.model"),
        (["tokenizer.model"], "tokenizer.model"),
        (["weights/other.model"], "weights/other.model"),
        (["weights/other.model", "weights/tokenizer.model"], "weights/tokenizer.model"),
        (["weights/other.model", "tokenizer.model"], "weights/other.model"),
    ],
)
def test_checkpoint_means_the_file_in_or_above_the_weights(tmp_path, written, expected):
    (tmp_path / "weights").mkdir()
    for name in written:
        (tmp_path / name).write_bytes(ASSET.read_bytes())
    loaded = tokenizer.load(
        _recipe("model.tokenizer=checkpoint", f"model.checkpoint={tmp_path}/weights")
    )
    assert loaded.name == str(tmp_path / expected)


def test_several_unnamed_models_beside_the_weights_are_refused(tmp_path):
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(ASSET.read_bytes())
    with pytest.raises(HarnessError, match=r"holds 2 files \*\.model .* set model\.tokenizer"):
        tokenizer.load(_recipe("model.tokenizer=checkpoint", f"model.checkpoint={tmp_path}"))


def test_no_model_beside_the_weights_is_refused(tmp_path):
    with pytest.raises(HarnessError, match=r"no tokenizer\.model in .* set model\.tokenizer"):
        tokenizer.load(_recipe("model.tokenizer=checkpoint", f"model.checkpoint={tmp_path}/none"))


def test_a_checkpoint_tokenizer_needs_a_checkpoint():
    with pytest.raises(HarnessError, match=r"model\.checkpoint is not set"):
        tokenizer.load(_recipe("model.tokenizer=checkpoint"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(HarnessError, match=r"none\.model cannot be read \(No such file"):
        tokenizer.load(_recipe(f"model.tokenizer={tmp_path}/none.model"))


@pytest.mark.parametrize("content", [b"", b"not a model", ASSET.read_bytes()[:1000]])
def test_a_file_that_is_no_sentencepiece_model_is_refused(tmp_path, content):
    path = tmp_path / "bad.model"
    path.write_bytes(content)
    with pytest.raises(HarnessError, match=r"bad\.model is not a SentencePiece model: use Gemma 3"):
        tokenizer.load(_recipe(f"model.tokenizer={path}"))


def test_gemma_roles_alone_are_enough(tmp_path):
    path = tmp_path / "other.model"
    path.write_bytes(_sentencepiece_model())
    loaded = tokenizer.load(_recipe(f"model.tokenizer={path}"))
    assert loaded.decode(loaded.encode("a box<end_of_turn>")) == "a box"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_id": 2, "bos_id": 1}, "does not give <eos> Gemma 3's role and id 1"),
        ({"pad_piece": "[PAD]"}, "does not give <pad> Gemma 3's role and id 0"),
        ({"pad_id": -1, "unk_id": 0}, "does not give <pad> Gemma 3's role and id 0"),
        ({"bos_id": -1}, "does not give <bos> Gemma 3's role and id 2"),
        ({"user_defined_symbols": ["<start_of_turn>"]}, "has no piece '<end_of_turn>'"),
        ({"user_defined_symbols": ["<end_of_turn>"]}, "has no piece '<start_of_turn>'"),
        ({"unk_piece": "[UNK]"}, "does not give <unk> Gemma 3's role and id 3"),
        (
            {
                "user_defined_symbols": ["<start_of_turn>"],
                "control_symbols": ["<end_of_turn>"],
            },
            "does not read the text <end_of_turn> as one token",
        ),
        ({"add_dummy_prefix": True}, "does not read the text <start_of_turn> as one token"),
    ],
)
def test_other_roles_than_gemmas_are_refused(tmp_path, changes, message):
    path = tmp_path / "roles.model"
    path.write_bytes(_sentencepiece_model(**changes))
    with pytest.raises(HarnessError, match=rf"roles\.model {message}"):
        tokenizer.load(_recipe(f"model.tokenizer={path}"))


def test_a_tokenizer_larger_than_the_embedding_is_refused():
    with pytest.raises(HarnessError, match=r"has 512 pieces but model\.vocab_size is 511"):
        tokenizer.load(_recipe("model.vocab_size=511"))
