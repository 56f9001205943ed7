"""Gemma's SentencePiece tokenizer, and a small one with the same special tokens.

The real one comes with Gemma's weights. The small one, for the `tiny` preset,
is part of the package and can be made again with `train`. Both give the roles
`<pad>`, `<eos>` and `<bos>` to the ids 0, 1 and 2, and read `<start_of_turn>`
and `<end_of_turn>` as one token each.
"""

import dataclasses
import hashlib
import importlib.resources
import importlib.resources.abc
import io
import pathlib
import re
from collections.abc import Iterable, Sequence

import sentencepiece
from etils import epath

from harness import files
from harness import recipe as recipes
from harness.data import arithmetic
from harness.errors import HarnessError

_ASSET = "tiny_tokenizer.model"
_SENTENCES = "sentences.txt"

# Gemma 3's roles; the two turn markers stand at 105 and 106 there, and may
# stand anywhere here.
_SPECIAL_IDS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
_TURN_MARKERS = ("<start_of_turn>", "<end_of_turn>")
_UNKNOWN_ID = _SPECIAL_IDS["<unk>"]

# How SentencePiece writes a space in its vocabulary.
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

_REMEDY = "use Gemma 3's own file, or set model.tokenizer to builtin"


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A SentencePiece model whose special tokens have Gemma 3's roles.

    It has the methods that Tunix asks of a tokenizer, so that it can be handed
    to Tunix as it is.

    Attributes:
      name: Where the model came from, for messages.
      model: The serialized SentencePiece model.
      sha256: Hexadecimal SHA-256 of `model`.

    Raises:
      HarnessError: `model` is not a SentencePiece model, or one of its special
        tokens has another role than in Gemma 3.
    """

    name: str
    model: bytes = dataclasses.field(repr=False)
    sha256: str = dataclasses.field(init=False)
    _processor: sentencepiece.SentencePieceProcessor = dataclasses.field(init=False, repr=False)
    _markers: frozenset[int] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Read the model and checks its special tokens."""
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
        except RuntimeError:
            raise HarnessError(
                f"tokenizer {self.name} is not a SentencePiece model: {_REMEDY}"
            ) from None
        object.__setattr__(self, "_processor", processor)
        object.__setattr__(self, "sha256", hashlib.sha256(self.model).hexdigest())
        roles = (processor.pad_id(), processor.eos_id(), processor.bos_id(), processor.unk_id())
        for (piece, wanted), found in zip(_SPECIAL_IDS.items(), roles, strict=True):
            if found != wanted or processor.id_to_piece(wanted) != piece:
                raise HarnessError(
                    f"tokenizer {self.name} does not give {piece} Gemma 3's role and id {wanted}: "
                    f"{_REMEDY}"
                )
        for piece in _TURN_MARKERS:
            if self.encode(piece) != [self.piece_id(piece)]:
                raise HarnessError(
                    f"tokenizer {self.name} does not read the text {piece} as one token: {_REMEDY}"
                )
        markers = [_SPECIAL_IDS[piece] for piece in ("<pad>", "<eos>", "<bos>")]
        markers += [self.piece_id(piece) for piece in _TURN_MARKERS]
        object.__setattr__(self, "_markers", frozenset(markers))

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self._processor.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without `<bos>`, which Tunix's sampler adds."""
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without padding, `<bos>`, `<eos>` and turn markers.

        Args:
          ids: Token ids. One past the last piece, which a model with more rows
            in its embedding may draw, reads as the unknown piece.

        Returns:
          The text.
        """
        known = (int(i) if 0 <= i < self.vocab_size else _UNKNOWN_ID for i in ids)
        return self._processor.DecodeIds([i for i in known if i not in self._markers])

    def bos_id(self) -> int:
        """Id of `<bos>`."""
        return self._processor.bos_id()

    def eos_id(self) -> int:
        """Id of `<eos>`."""
        return self._processor.eos_id()

    def pad_id(self) -> int:
        """Id of `<pad>`."""
        return self._processor.pad_id()

    def piece_id(self, piece: str) -> int:
        """Return the id of a piece.

        Args:
          piece: The piece as the vocabulary writes it.

        Returns:
          Its id.

        Raises:
          HarnessError: The vocabulary has no such piece.
        """
        found = self._processor.piece_to_id(piece)
        if self._processor.id_to_piece(found) != piece:
            raise HarnessError(
                f"tokenizer {self.name} has no piece {piece!r}: name a piece of its vocabulary, "
                "such as <eos> or <end_of_turn>"
            )
        return found

    def piece(self, token: int) -> str:
        """Return the piece of an id."""
        return self._processor.id_to_piece(token)

    def end_ids(self, pieces: Sequence[str]) -> tuple[int, ...]:
        """Return the ids of the pieces that end a completion, each once, in order.

        Args:
          pieces: Pieces, such as `recipe.rollout.stop_tokens`.

        Returns:
          Their ids.

        Raises:
          HarnessError: As `piece_id`.
        """
        return tuple(dict.fromkeys(self.piece_id(piece) for piece in pieces))


def builtin() -> Tokenizer:
    """Return the small tokenizer that is part of the package."""
    return Tokenizer("builtin", (_assets() / _ASSET).read_bytes())


def load(recipe: recipes.Recipe) -> Tokenizer:
    """Read the tokenizer that `recipe.model.tokenizer` names.

    Args:
      recipe: `builtin` is the small one in the package; `checkpoint` the one
        in the folder `recipe.model.checkpoint` or the folder above it; all
        else is a path, on any file system that etils reads.

    Returns:
      The tokenizer.

    Raises:
      HarnessError: There is no such file, it is not a SentencePiece model, its
        special tokens have other roles than Gemma 3's, or it has more pieces
        than the model's embedding has rows.
    """
    if recipe.model.tokenizer == "builtin":
        tokenizer = builtin()
    else:
        if recipe.model.tokenizer == "checkpoint":
            path = _beside_checkpoint(recipe.model.checkpoint)
        else:
            path = epath.Path(recipe.model.tokenizer).expanduser()
        tokenizer = Tokenizer(str(path), _read(path))
    if tokenizer.vocab_size > recipe.model.vocab_size:
        raise HarnessError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} pieces but model.vocab_size is "
            f"{recipe.model.vocab_size}: raise model.vocab_size or name a smaller tokenizer"
        )
    return tokenizer


def train(out_path: pathlib.Path, vocab_size: int = 512) -> None:
    """Make the small tokenizer and writes it to a file.

    Every constant text of the built-in problems and of the default prompt is
    one piece; so is every digit, and no longer piece holds a digit, so that a
    number is written in one way wherever it stands. The other pieces are a
    byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of word problems
    in English. What has no piece is written in bytes, so any text comes back as
    it was, but for U+2581, which SentencePiece takes for a space. The same call
    gives the same bytes.

    Args:
      out_path: File to write; it appears only once it is complete.
      vocab_size: Number of pieces.

    Raises:
      HarnessError: The file exists, its folder cannot be written, or no such
        number of pieces can be made.
    """
    path = pathlib.Path(out_path)
    if path.exists():
        raise HarnessError(f"{path} exists already: name a new file, or delete it first")
    sentences = (_assets() / _SENTENCES).read_text(encoding="utf-8").splitlines()
    symbols = [*_TURN_MARKERS, "####", "\n", f" {recipes.Data().system_prompt}", "user", "model"]
    symbols += arithmetic.fragments()
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            # Rarer letters cost one byte token each, as they would as pieces,
            # and leave room for longer pieces.
            character_coverage=0.985,
            required_chars="0123456789+-=<>",
            user_defined_symbols=[text.replace(" ", _SPACE) for text in symbols],
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
            unk_piece="<unk>",
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OverflowError) as error:
        raise HarnessError(
            f"a tokenizer of {vocab_size} pieces cannot be made: {_size_remedy(str(error))}"
        ) from None
    _write(path, model.getvalue())


def _assets() -> importlib.resources.abc.Traversable:
    return importlib.resources.files("harness") / "assets"


def _size_remedy(message: str) -> str:
    low = re.search(r"\d+ vs (\d+)", message)
    high = re.search(r"<= (\d+)", message)
    if low:
        return f"choose at least {low[1]}"
    if high:
        return f"choose at most {high[1]}"
    return "choose another number, such as 512"


def _beside_checkpoint(checkpoint: str | None) -> epath.Path:
    if checkpoint is None:
        raise HarnessError(
            "model.tokenizer is checkpoint but model.checkpoint is not set: give the folder of "
            "the weights, or set model.tokenizer to a file or to builtin"
        )
    folder = epath.Path(checkpoint).expanduser()
    for searched in (folder, folder.parent):
        try:
            files = sorted(file for file in searched.glob("*.model")) if searched.is_dir() else []
        # Each file system that etils reaches raises errors of its own.
        except Exception as error:
            raise HarnessError(
                f"folder {searched} cannot be searched for a tokenizer: {_reason(error)}"
            ) from None
        named = [file for file in files if file.name == "tokenizer.model"]
        if len(files) > 1 and not named:
            raise HarnessError(
                f"folder {searched} holds {len(files)} files *.model and none is tokenizer.model: "
                "set model.tokenizer to the right one"
            )
        if files:
            return (named or files)[0]
    raise HarnessError(
        f"no tokenizer.model in {folder} or in the folder above it: put it there, or set "
        "model.tokenizer to its path"
    )


def _read(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    # Each file system that etils reaches raises errors of its own.
    except Exception as error:
        raise HarnessError(
            f"tokenizer {path} cannot be read ({_reason(error)}): set model.tokenizer to a "
            "SentencePiece file, or to builtin"
        ) from None


def _write(path: pathlib.Path, content: bytes) -> None:
    try:
        with files.replacing(path, durable=False) as file:
            file.write(content)
    except OSError as error:
        raise HarnessError(
            f"{path} cannot be written ({_reason(error)}): name a file in a folder that can be"
        ) from None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
