"""What `python -m harness gate` does, apart from reading its arguments."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import harness
from harness.errors import HarnessError
from harness.gate import arms, baseline, exact, records, runner
from harness.gate import learning as learning_lib
from harness.gate.verdict import Finding, Report, Tier, Verdict

ROOT = pathlib.Path(harness.__file__).resolve().parents[1]
_FIGURES = tuple(exact.FIGURES)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of the gate.

    Attributes:
      files: None, one file to compare with the stored baseline, or two.
      against: A git reference or `tunix==VERSION`.
      tiers: Of `against`; both if empty.
      learning: Folders of runs.
      preset: Whose shapes are measured.
      assignments: Changes to it, `a.b=value`.
      mode: `patched` or `stock`; if None, stock where two releases of Tunix are
        compared, since fixes are made for one, and patched elsewhere.
      core: Where both arms are pinned.
      rounds: Rounds within a pair of processes.
      dirty: Whether changes that are not committed may be judged.
      update_baseline: Whether to take what was measured as the baseline.
      reason: Why.
      baselines: Where baselines live.
      environments: Where environments of other arms are stored.
    """

    files: Sequence[pathlib.Path] = ()
    against: str | None = None
    tiers: Sequence[Tier] = ()
    learning: Sequence[pathlib.Path] = ()
    preset: str = "tiny"
    assignments: Sequence[str] = ()
    mode: str | None = None
    core: int | None = None
    rounds: int = 9
    dirty: bool = False
    update_baseline: bool = False
    reason: str = ""
    baselines: pathlib.Path | None = None
    environments: pathlib.Path = pathlib.Path(".gate")

    def check(self) -> None:
        """Refuse what makes no sense together."""
        if sum(map(bool, (self.files, self.against, self.learning))) > 1:
            raise HarnessError("give files, --against or --learning, not several of them")
        if len(self.files) > 2:
            raise HarnessError(
                f"{len(self.files)} files were given: give a baseline and a candidate"
            )
        if self.update_baseline and (self.against or len(self.files) > 1):
            raise HarnessError("--update-baseline takes one measurement: give one file, or none")
        if self.update_baseline and not self.reason.strip():
            raise HarnessError("a baseline is changed for a reason only: give --reason WHY")

    @property
    def folder(self) -> pathlib.Path:
        """Where baselines live."""
        return self.baselines or ROOT / "baselines"

    @property
    def plan(self) -> runner.Plan:
        """What workers measure."""
        mode = "stock" if self.against and arms.tunix_version(self.against) else "patched"
        changes = (f"--set={each}" for each in self.assignments)
        arguments = ("--preset", self.preset, "--upstream", self.mode or mode, *changes)
        return runner.Plan(arguments=arguments, core=self.core, rounds=self.rounds)


def run(asked: Request, progress: Callable[[str], None] = lambda what: None) -> Report:
    """Answer, in one of four ways, whether something got worse.

    Two files are compared as they are; `against` measures two arms; `learning`
    compares finished runs with reference runs; otherwise the exact figures of a
    file or of this checkout are compared with the stored baseline.

    Args:
      asked: What is asked.
      progress: Receives what is being done.

    Returns:
      The report.

    Raises:
      HarnessError: It cannot be done as asked.
    """
    asked.check()
    if asked.learning:
        return _learning(asked)
    if asked.against:
        here = arms.candidate(ROOT, dirty=asked.dirty)
        with arms.against(asked.against, here, asked.environments) as other:
            tiers = asked.tiers or ("exact", "time")
            return runner.against(other, here, asked.plan, tiers, progress)
    if len(asked.files) == 2:
        old, new = (records.read(path, _FIGURES) for path in asked.files)
        return Report(_described(old), _described(new), exact.compare(old, new))
    if asked.files:
        return _stored(asked, records.read(asked.files[0], _FIGURES))
    here = arms.candidate(ROOT, dirty=asked.dirty or asked.update_baseline)
    progress(f"exact figures of {here.label}")
    return _stored(asked, runner.measure_exact(here, asked.plan))


def _stored(asked: Request, new: records.Record) -> Report:
    """Compare a record with the stored baseline, or store it as the baseline."""
    path = baseline.path_for(asked.folder, new)
    if asked.update_baseline:
        baseline.write(path, new, asked.reason)
        return _taken("exact", "baseline", path, _described(new), asked.reason)
    old = baseline.read(path)
    return Report(_described(old), _described(new), exact.compare(old, new))


def _learning(asked: Request) -> Report:
    runs = learning_lib.from_results(asked.learning)
    path = asked.folder / f"learning-{runs.recipe.get('recipe.name', 'unknown')}.json"
    described = f"{runs.label}, Tunix {runs.judged['google-tunix']} ({runs.judged['mode']})"
    if asked.update_baseline:
        learning_lib.write(path, runs, asked.reason)
        return _taken("learning", "reference", path, described, asked.reason)
    return Report(path.name, described, learning_lib.compare(learning_lib.read(path), runs))


def _taken(tier: Tier, what: str, path: pathlib.Path, described: str, reason: str) -> Report:
    text = f"taken as the {what} {path.name}: {reason}"
    return Report(path.name, described, (Finding(tier, path.name, Verdict.PASS, text),))


def _described(record: records.Record) -> str:
    commit = str(record.judged.get("commit") or "an unknown commit")[:10]
    return f"{record.label} (Tunix {record.judged.get('google-tunix')}, {commit})"
