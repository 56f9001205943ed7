"""What `python -m harness gate` does, apart from reading its arguments."""

import pathlib
from collections.abc import Callable, Sequence

import harness
from harness.errors import HarnessError
from harness.gate import arms, baseline, exact, records, runner
from harness.gate import learning as learning_lib
from harness.gate.verdict import Finding, Report, Tier, Verdict

ROOT = pathlib.Path(harness.__file__).resolve().parents[1]


def run(
    files: Sequence[pathlib.Path] = (),
    *,
    against: str | None = None,
    tiers: Sequence[Tier] = (),
    learning: Sequence[pathlib.Path] = (),
    preset: str = "tiny",
    assignments: Sequence[str] = (),
    mode: str | None = None,
    core: int | None = None,
    rounds: int = 9,
    dirty: bool = False,
    update_baseline: bool = False,
    reason: str = "",
    baselines: pathlib.Path | None = None,
    environments: pathlib.Path = pathlib.Path(".gate"),
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Answer, in one of four ways, whether something got worse.

    Two files are compared as they are; `against` measures two arms; `learning`
    holds finished runs to reference runs; otherwise this checkout's exact
    figures are measured and held to the stored baseline.

    Args:
      files: None, one file to hold to the stored baseline, or two.
      against: A git reference or `tunix==VERSION`.
      tiers: Of `against`; both if none.
      learning: Folders of runs.
      preset: Whose shapes are measured.
      assignments: Changes to it, `a.b=value`.
      mode: `patched` or `stock`; if none, stock where two releases of Tunix are
        compared, since fixes are made for one, and patched elsewhere.
      core: Where both arms are pinned.
      rounds: Turns within a pair of processes.
      dirty: Whether changes that are not committed may be judged.
      update_baseline: Whether to take what was measured as the baseline.
      reason: Why.
      baselines: Where baselines live.
      environments: Where environments of other arms are kept.
      progress: Receives what is being done.

    Returns:
      The report.

    Raises:
      HarnessError: It cannot be done as asked.
    """
    ways = sum(map(bool, (files, against, learning)))
    if ways > 1:
        raise HarnessError("give files, --against or --learning, not several of them")
    if update_baseline and (against or len(files) > 1):
        raise HarnessError("--update-baseline takes one measurement: give one file, or none")
    if update_baseline and not reason.strip():
        raise HarnessError("a baseline is changed for a reason only: give --reason WHY")
    folder = baselines or ROOT / "baselines"
    if learning:
        return _learning(learning, folder, update_baseline, reason)
    mode = mode or ("stock" if against and arms.tunix_version(against) else "patched")
    plan = runner.Plan(
        arguments=(
            *("--preset", preset, "--upstream", mode),
            *(f"--set={each}" for each in assignments),
        ),
        core=core,
        rounds=rounds,
    )
    if against:
        here = arms.candidate(ROOT, dirty=dirty)
        with arms.against(against, here, environments) as other:
            return runner.against(other, here, plan, tiers or ("exact", "time"), progress)
    figures = tuple(exact.FIGURES)
    if len(files) > 2:
        raise HarnessError(f"{len(files)} files were given: give a baseline and a candidate")
    if len(files) == 2:
        old, new = (records.read(path, figures) for path in files)
        return Report(_described(old), _described(new), exact.compare(old, new))
    if files:
        new = records.read(files[0], figures)
    else:
        here = arms.candidate(ROOT, dirty=dirty or update_baseline)
        progress(f"exact figures of {here.label}")
        new = runner.measure_exact(here, plan)
    path = baseline.path_for(folder, new)
    if update_baseline:
        baseline.write(path, new, reason)
        text = f"taken as the baseline {path.name}: {reason}"
        return Report(
            path.name, _described(new), (Finding("exact", path.name, Verdict.PASS, text),)
        )
    old = baseline.read(path)
    return Report(_described(old), _described(new), exact.compare(old, new))


def _learning(
    folders: Sequence[pathlib.Path], baselines: pathlib.Path, update: bool, reason: str
) -> Report:
    runs = learning_lib.from_results(folders)
    path = baselines / f"learning-{runs.recipe.get('recipe.name', 'unknown')}.json"
    described = f"{runs.label}, Tunix {runs.judged['google-tunix']} ({runs.judged['mode']})"
    if update:
        learning_lib.write(path, runs, reason)
        text = f"taken as the reference {path.name}: {reason}"
        return Report(path.name, described, (Finding("learning", path.name, Verdict.PASS, text),))
    return Report(path.name, described, learning_lib.compare(learning_lib.read(path), runs))


def _described(record: records.Record) -> str:
    commit = str(record.judged.get("commit") or "an unknown commit")[:10]
    return f"{record.label} (Tunix {record.judged.get('google-tunix')}, {commit})"
