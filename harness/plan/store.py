"""What the compiler said, kept under a key of everything that determines it."""

import ast
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from harness import accounting, errors, files
from harness import recipe as recipe_lib
from harness.data import cache
from harness.measure import environment

_PACKAGES = ("jax", "jaxlib", "libtpu", "google-tunix", "qwix", "flax", "optax")
# Only these groups of a recipe reach a program.
_GROUPS = ("model", "lora", "sharding", "rollout", "ppo", "optimizers")
_NOT_OF_A_PROGRAM = ("weights", "checkpoint", "tokenizer", "end_tokens", "max_steps")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The compiler's answer to a program that does not fit.

    Attributes:
      needed_bytes: HBM that it would take, none if the message did not say.
      available_bytes: HBM that there is, none if the message did not say.
      message: The compiler's own words.
    """

    needed_bytes: int | None
    available_bytes: int | None
    message: str


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler says of one program on one chip.

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
        """Reads what `dataclasses.asdict` gave."""
        refused = tree.get("refused")
        return cls(**{**tree, "refused": Refusal(**refused) if refused else None})


@dataclasses.dataclass(frozen=True)
class Job:
    """One question to the compiler.

    Attributes:
      recipe: The recipe.
      mends: Ids of the mends of Tunix.
      place: Name of the slice.
      program: Name of the program, or `resident`.
      rows: Sequences in one call.
    """

    recipe: recipe_lib.Recipe
    mends: tuple[str, ...]
    place: str
    program: str
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Gives plain JSON values."""
        return {
            "recipe": recipe_lib.to_dict(self.recipe),
            "mends": list(self.mends),
            "place": self.place,
            "program": self.program,
            "rows": self.rows,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Job":
        """Reads what `to_dict` gave."""
        return cls(
            recipe=recipe_lib.from_dict(tree["recipe"]),
            mends=tuple(tree["mends"]),
            place=tree["place"],
            program=tree["program"],
            rows=tree["rows"],
        )


class Store:
    """A folder with one file for each answer."""

    def __init__(self, folder: pathlib.Path | None = None, flags: Mapping[str, str] | None = None):
        """Opens a store; the folder need not exist.

        Args:
          folder: Where; `plan` in the harness's cache if none.
          flags: What else the compiler is told, by name.
        """
        self.folder = folder or cache.cache_root() / "plan"
        self._flags = dict(flags or {})
        self._versions = versions()
        self._source = _source_digest()

    def key(self, job: Job) -> dict[str, Any]:
        """Gives all that determines an answer, as plain JSON values."""
        tree = recipe_lib.to_dict(job.recipe)
        batching = job.recipe.batching
        return {
            "program": job.program,
            "rows": job.rows,
            "place": job.place,
            "recipe": {
                group: {k: v for k, v in tree[group].items() if k not in _NOT_OF_A_PROGRAM}
                for group in _GROUPS
            },
            "end_tokens": len(job.recipe.rollout.end_tokens),
            "max_steps": accounting.max_steps(job.recipe),
            "accumulation": batching.mini_batch // batching.train_micro_batch,
            "mini_batch": batching.mini_batch if job.program == "resident" else None,
            "mends": list(job.mends),
            "versions": self._versions,
            "flags": self._flags,
            "source": self._source,
        }

    def get(self, job: Job) -> dict[str, Any] | None:
        """Gives the answer that is kept, or none."""
        try:
            kept = json.loads(self._path(job).read_text(encoding="utf-8"))
            return kept["answer"] if kept["key"] == self.key(job) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Keeps an answer.

        Args:
          job: The question.
          answer: Plain JSON values.

        Raises:
          HarnessError: The folder cannot be written.
        """
        path = self._path(job)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.HarnessError(
                f"the cache folder {path.parent} cannot be written ({error.strerror}): set "
                "PPO_HARNESS_CACHE to one that can"
            ) from None
        text = json.dumps({"key": self.key(job), "answer": dict(answer)}, indent=1)
        files.write_whole(path, text + "\n")

    def _path(self, job: Job) -> pathlib.Path:
        digest = hashlib.sha256(json.dumps(self.key(job), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{job.program}-{job.rows}-{digest[:24]}.json"


def versions() -> dict[str, str | None]:
    """Gives the versions of the packages that determine a program."""
    return environment.versions(_PACKAGES)


def _source_digest() -> str:
    """Digests the harness's own code that reaches into programs, but for its comments."""
    digest = hashlib.sha256()
    here = pathlib.Path(__file__).parents[1]
    # Of the door to Tunix, what builds and mends the objects that are compiled.
    names = ("cluster", "learner", "rollout", "programs", "rebind")
    paths = [here / "upstream" / f"{name}.py" for name in names]
    paths += [here / "models" / f"{name}.py" for name in ("gemma", "lora", "critic")]
    for path in (*paths, here / "plan" / "worker.py"):
        digest.update(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]
