"""The compiler's answers, saved under the text of the program that was compiled.

There are two levels. A job (recipe, size, slice) together with a digest of all
sources that could reach a program leads to the digest of the lowered program, and
that digest, with what else the compiler is given, leads to the answer. An edit of
a source makes the first level miss, which costs a lowering; a program is compiled
again only where its text, the flags or the compiler are others.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from harness import cache, upstream
from harness import recipe as recipe_lib
from harness.measure import environment
from harness.plan import sources

_PACKAGES = ("jax", "jaxlib", "libtpu", "google-tunix", "qwix", "flax", "optax")
# What of a recipe reaches no program, so that a plan of the same shapes lowers nothing again.
# Whatever is not named here is in the key; the tests lower programs to hold the names to it.
_NO_PROGRAM: Mapping[str, tuple[str, ...]] = {
    "": ("name", "seed", "data", "checkpoints", "evaluation", "warm_start", "reward", "batching"),
    "model": ("weights", "checkpoint", "tokenizer"),
    "optimizers": ("max_steps",),
}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The compiler's answer to a program that does not fit.

    Attributes:
      needed_bytes: HBM that it would take, None if the message does not say.
      available_bytes: HBM that there is, None if the message does not say.
      message: The compiler's message.
    """

    needed_bytes: int | None
    available_bytes: int | None
    message: str


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler reports of one program on one chip.

    Attributes:
      argument_bytes: Arguments.
      output_bytes: Results.
      alias_bytes: Results that take the place of donated arguments.
      temp_bytes: Temporaries.
      code_bytes: The program itself.
      flops: Operations as XLA counts them, loop bodies once.
      bytes_accessed: Bytes as XLA counts them, loop bodies once.
      compile_seconds: Time of the compilation.
      host_bytes: Peak memory of the process that compiled, so far.
      refused: Why there is no program; the other figures are 0 then.
    """

    argument_bytes: int = 0
    output_bytes: int = 0
    alias_bytes: int = 0
    temp_bytes: int = 0
    code_bytes: int = 0
    flops: float = 0.0
    bytes_accessed: float = 0.0
    compile_seconds: float = 0.0
    host_bytes: int = 0
    refused: Refusal | None = None

    @property
    def peak_bytes(self) -> int | None:
        """HBM that the program takes: its parts, or the compiler's figure if refused."""
        if self.refused:
            return self.refused.needed_bytes
        return (
            self.argument_bytes
            + self.output_bytes
            + self.temp_bytes
            + self.code_bytes
            - self.alias_bytes
        )

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Figures":
        """Read what `dataclasses.asdict` returned."""
        refused = tree.get("refused")
        return cls(**{**tree, "refused": Refusal(**refused) if refused else None})


@dataclasses.dataclass(frozen=True)
class Job:
    """One question to the compiler.

    Attributes:
      recipe: The recipe.
      fixes: The fixes of Tunix in place.
      slice: Name of the slice.
      program: Name of the program, or `resident`.
      sequences: Sequences in one call.
    """

    recipe: recipe_lib.Recipe
    fixes: upstream.Fixes
    slice: str
    program: str
    sequences: int

    @property
    def fix_ids(self) -> list[str] | None:
        """Ids of the fixes; None for stock Tunix."""
        return None if self.fixes.stock else list(self.fixes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "recipe": recipe_lib.to_dict(self.recipe),
            "fixes": self.fix_ids,
            "slice": self.slice,
            "program": self.program,
            "sequences": self.sequences,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Job":
        """Read what `to_dict` returned."""
        return cls(
            recipe=recipe_lib.from_dict(tree["recipe"]),
            fixes=(
                upstream.STOCK if tree["fixes"] is None else upstream.Fixes(tuple(tree["fixes"]))
            ),
            slice=tree["slice"],
            program=tree["program"],
            sequences=tree["sequences"],
        )


class Store:
    """A folder of answers, each in a file of its own."""

    def __init__(self, folder: pathlib.Path | None = None, compiler_flags: str = ""):
        """Open a store; the folder need not exist.

        Args:
          folder: Where; `plan` in the harness's cache if `None`.
          compiler_flags: Flags that the compiler is given, separated by spaces.
        """
        self.folder = folder or cache.cache_root() / "plan"
        self.compiler_flags = " ".join(compiler_flags.split())
        self._versions = versions()
        self._sources = {"harness": sources.digest(), "tunix": sources.installed("tunix")}

    def key(self, job: Job) -> dict[str, Any]:
        """Return all that determines a job's program and answer, as plain JSON values."""
        tree = recipe_lib.to_dict(job.recipe)
        batching = job.recipe.batching
        return {
            "program": job.program,
            "sequences": job.sequences,
            "slice": job.slice,
            "recipe": {
                group: {k: v for k, v in values.items() if k not in _NO_PROGRAM.get(group, ())}
                if isinstance(values, Mapping)
                else values
                for group, values in tree.items()
                if group not in _NO_PROGRAM[""]
            },
            "max_steps": recipe_lib.max_steps(job.recipe),
            "accumulation": batching.mini_batch_size // batching.train_micro_batch_size,
            "mini_batch": batching.mini_batch_size if job.program == "resident" else None,
            "fixes": job.fix_ids,
            "versions": self._versions,
            "flags": self.compiler_flags,
            "sources": self._sources,
        }

    def program_key(self, slice_: str, text: str) -> dict[str, Any]:
        """Return all that determines the compiler's answer to a lowered program.

        Args:
          slice_: Name of the slice.
          text: Digest of the lowered text.
        """
        return {
            "text": text,
            # Under another name, all that was ever compiled would be compiled again.
            "place": slice_,
            "versions": self._versions,
            "flags": self.compiler_flags,
        }

    def get(self, job: Job) -> dict[str, Any] | None:
        """Return the answer saved for a job whose sources are unchanged, or `None`."""
        found = _read(self._job_path(job), self.key(job))
        if found is None or "text" not in found:
            return found
        return self.get_program(job.slice, found["text"])

    def get_program(self, slice_: str, text: str) -> dict[str, Any] | None:
        """Return the answer saved for a lowered program, or `None`.

        Args:
          slice_: Name of the slice.
          text: Digest of the lowered text.
        """
        return _read(self._program_path(slice_, text), self.program_key(slice_, text))

    def put(self, job: Job, answer: Mapping[str, Any], text: str | None = None) -> None:
        """Save an answer.

        Args:
          job: The question.
          answer: Plain JSON values.
          text: Digest of the lowered text, `None` where no program was lowered.

        Raises:
          HarnessError: The folder cannot be written.
        """
        if text is None:
            self._write(self._job_path(job), self.key(job), answer)
            return
        # The answer first: a job must never lead to one that is not there.
        path = self._program_path(job.slice, text)
        self._write(path, self.program_key(job.slice, text), answer)
        self._write(self._job_path(job), self.key(job), {"text": text})

    def _write(self, path: pathlib.Path, key: Any, answer: Mapping[str, Any]) -> None:
        content = json.dumps({"key": key, "answer": dict(answer)}, indent=1) + "\n"
        with cache.replacing(path) as file:
            file.write(content.encode())

    def _job_path(self, job: Job) -> pathlib.Path:
        return self.folder / f"{job.program}-{job.sequences}-{_digest(self.key(job))}.json"

    def _program_path(self, slice_: str, text: str) -> pathlib.Path:
        return self.folder / "programs" / f"{_digest(self.program_key(slice_, text))}.json"


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: pathlib.Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer in a file, `None` where it is damaged or answers something else."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        # As JSON, in which a tuple is a list.
        same = saved["key"] == json.loads(json.dumps(key))
        return dict(saved["answer"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that determine a program."""
    return environment.versions(_PACKAGES)
