"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168) as ArrayRecord, read by row.

TensorFlow Datasets prepares it, as in the reference recipe, but TensorFlow is
not needed. Without the internet, the two JSONL files of the original release
are prepared into the same layout and, for the same files, the same row order.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

# The builder is imported, not asked for by name: finding it by name imports
# every other builder first, and some of those need TensorFlow.
from tensorflow_datasets.text.gsm8k import gsm8k as upstream

from harness import cache, downloads
from harness.data.problem import Problem
from harness.data.prompt import extract_answer
from harness.errors import HarnessError

SPLITS = ("train", "test")

_ARRAY_RECORD = tfds.core.FileFormat.ARRAY_RECORD
# Part of the cache key: another layout must not be read as this one.
_LAYOUT = "1"
_PROBE_TIMEOUT_SECONDS = 5


class Rows(Sequence[Problem]):
    """One split's problems, each read from its ArrayRecord file when asked for."""

    def __init__(self, source: Any) -> None:
        """Wrap a TFDS data source whose rows have `question` and `answer`."""
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _problem(self._source[index])

    def __iter__(self) -> Iterator[Problem]:
        return map(_problem, self._source.__getitems__(range(len(self))))


def _problem(row: Mapping[str, bytes]) -> Problem:
    return Problem(row["question"].decode("utf-8"), row["answer"].decode("utf-8"))


class _LocalGsm8k(upstream.Gsm8k, skip_registration=True):
    """Upstream's builder over rows that are already in memory."""

    name = "gsm8k"

    def __init__(self, problems: Mapping[str, Sequence[Problem]], **kwargs: Any) -> None:
        """Take the problems of each split; all else as upstream's."""
        self._problems = problems
        super().__init__(**kwargs)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        return {split: self._generate_examples(rows) for split, rows in self._problems.items()}

    def _generate_examples(self, path: Any) -> Iterator[tuple[int, dict]]:
        # The keys decide the order of the rows; these are upstream's.
        for key, problem in enumerate(path):
            annotation, _, short_answer = problem.answer.rpartition("#### ")
            yield (
                key,
                {
                    "question": problem.question,
                    "answer": problem.answer,
                    "annotation": annotation,
                    "short_answer": short_answer,
                },
            )


def prepare(source: str, cache_dir: pathlib.Path) -> dict[str, Rows]:
    """Return GSM8K's splits, preparing the ArrayRecord files where there are none.

    Args:
      source: `jsonl:DIR`, a folder with `train.jsonl` and `test.jsonl`; `tfds`,
        downloaded into the cache; or `tfds:DIR`, where DIR is a TFDS data
        folder, prepared already or to be downloaded into.
      cache_dir: Folder for what is prepared. What comes from JSONL is keyed by
        the contents of the files, so changed files are prepared anew.

    Returns:
      The rows of `train` and `test`.

    Raises:
      HarnessError: A file is missing or a line of it is not a problem in
        GSM8K's form, a folder cannot be written, or the download fails.
    """
    kind, _, folder = source.partition(":")
    if kind == "jsonl":
        return _prepare_jsonl(epath.Path(folder).expanduser(), cache_dir)
    if folder:
        return _prepare_tfds(str(epath.Path(folder).expanduser()))
    return _prepare_tfds(str(cache_dir / "gsm8k" / "tfds"))


def locate(source: str, wanted: Callable[[Problem], bool]) -> tuple[str, Problem] | None:
    """Return the first problem of local files for which a predicate holds.

    Args:
      source: As for `prepare`.
      wanted: The predicate.

    Returns:
      `FILE, line N` and the problem; None if there is none, or the source is
      not `jsonl:DIR`.
    """
    kind, _, named = source.partition(":")
    if kind != "jsonl":
        return None
    folder = epath.Path(named).expanduser()
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        for number, problem in enumerate(_parse(path, _read(path)), start=1):
            if wanted(problem):
                return f"{path}, line {number}", problem
    return None


def _prepare_jsonl(folder: epath.Path, cache_dir: pathlib.Path) -> dict[str, Rows]:
    contents = {split: _read(folder / f"{split}.jsonl") for split in SPLITS}
    digest = hashlib.sha256(_LAYOUT.encode())
    for content in contents.values():
        digest.update(hashlib.sha256(content).digest())
    prepared = cache_dir / "gsm8k" / f"jsonl-{digest.hexdigest()[:32]}"
    if not prepared.exists():
        problems = {
            split: _parse(folder / f"{split}.jsonl", content) for split, content in contents.items()
        }
        _prepare_problems(problems, prepared)
    try:
        builder = _LocalGsm8k({}, data_dir=str(prepared), file_format=_ARRAY_RECORD)
        return _open(builder)
    # A damaged cache fails in as many ways as there are readers beneath TFDS.
    except Exception as error:
        raise HarnessError(
            f"the prepared data in {prepared} cannot be read ({_reason(error)}): delete that folder"
        ) from None


def _prepare_problems(problems: Mapping[str, Sequence[Problem]], prepared: pathlib.Path) -> None:
    """Prepare beside the final folder and renames: what has its name is whole."""
    try:
        prepared.parent.mkdir(parents=True, exist_ok=True)
        unfinished = pathlib.Path(
            tempfile.mkdtemp(dir=prepared.parent, prefix=f".{prepared.name}.")
        )
        try:
            builder = _LocalGsm8k(
                problems, data_dir=str(unfinished / "data"), file_format=_ARRAY_RECORD
            )
            with _quiet():
                builder.download_and_prepare(download_dir=str(unfinished / "downloads"))
            try:
                (unfinished / "data").rename(prepared)
            except OSError:
                # Another process was faster with the same content.
                if not prepared.exists():
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise cache.cannot_write(prepared.parent, _reason(error)) from None


def _prepare_tfds(data_dir: str) -> dict[str, Rows]:
    try:
        builder = upstream.Gsm8k(data_dir=data_dir, file_format=_ARRAY_RECORD)
        if not builder.data_path.exists():
            _probe(data_dir)
            with _quiet():
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        return _open(builder)
    except HarnessError:
        raise
    # Network, disk, checksums and file formats each raise errors of their own.
    except Exception as error:
        raise HarnessError(
            f"GSM8K cannot be prepared in, or read from, {data_dir} ({_reason(error)}): name "
            "another folder with tfds:DIR, or local files with jsonl:DIR"
        ) from None


def _probe(data_dir: str) -> None:
    """Fail at once without a network, where TFDS tries for minutes."""
    url = upstream._URLS["test"]
    downloads.require_gsm8k_host(data_dir, url)
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_SECONDS):
            pass
    except OSError as error:
        raise downloads.no_gsm8k(data_dir, str(getattr(error, "reason", error))) from None


def _open(builder: Any) -> dict[str, Rows]:
    rows = {split: Rows(builder.as_data_source(split=split)) for split in SPLITS}
    for split in SPLITS:
        # The files are opened by the first read, not before.
        rows[split][0]
    return rows


def _read(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    # Each file system that etils reaches raises errors of its own.
    except Exception as error:
        raise HarnessError(
            f"{path} cannot be read ({_reason(error)}): data.source jsonl:DIR needs the files "
            "train.jsonl and test.jsonl in DIR"
        ) from None


def _parse(path: epath.Path, content: bytes) -> list[Problem]:
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    if not lines:
        raise HarnessError(f"{path} is empty: every line must be a problem in GSM8K's form")
    problems = []
    for number, line in enumerate(lines, start=1):
        try:
            problems.append(_parse_line(line))
        except ValueError as error:
            raise HarnessError(
                f"{path}, line {number}: {error}; every line must be a JSON object with the "
                "texts question and answer, the answer ending in '#### ' and a number"
            ) from None
    return problems


def _parse_line(line: bytes) -> Problem:
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for field in Problem._fields:
        if not isinstance(row.get(field), str):
            raise ValueError(f"no text '{field}'")
        try:
            row[field].encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"'{field}' is not valid Unicode") from None
    extract_answer(row["answer"])
    return Problem(row["question"], row["answer"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS's progress off the terminal: standard output may be JSON."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
