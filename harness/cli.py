"""The command line: parses, calls, prints.

Exit codes: 0 done and good; 1 done, and the answer is no; 2 could not be done,
with one line that names the thing and the mend; others in `harness.crash`.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

# Said before XLA loads, or its C++ log lines drown what a person came to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import crash, downloads
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.files import write_whole


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits.

    Args:
      argv: Arguments after the program's name; those of the process if none.
    """
    crash.end(lambda: run_command(argv))


def run_command(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: Arguments after the program's name; those of the process if none.

    Returns:
      The exit code.

    Raises:
      HarnessError: What was asked cannot be done.
    """
    try:
        with _own_words():
            return cli.main(args=argv, prog_name="ppo-harness", standalone_mode=False) or 0
    except click.ClickException as error:
        raise HarnessError(error.format_message()) from None
    except click.Abort:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """Keeps back what writing threads die of: it reaches us too, and is said in one sentence."""

    def said_once(record: logging.LogRecord) -> bool:
        return record.exc_info is None

    def not_of_callbacks(found: Any) -> None:
        # TensorStore calls back to who has gone.
        if str(found.exc_value) != "Event loop is closed":
            hook(found)

    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook
    sys.unraisablehook = not_of_callbacks
    for logger in loggers:
        logger.addFilter(said_once)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(said_once)


_force_option = click.option(
    "--force",
    is_flag=True,
    help="Go on where the recipe needs more memory than there is.",
)


def _recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--preset",
                default="tiny",
                show_default=True,
                help=f"One of {', '.join(sorted(recipe_lib.PRESETS))}.",
            ),
            click.option("--recipe", "toml", metavar="F.toml", help="TOML laid over the preset."),
            click.option(
                "--set",
                "assignments",
                multiple=True,
                metavar="A.B=V",
                help="One field, such as batching.train_micro_batch=4; may be repeated.",
            ),
            click.option(
                "--data",
                "source",
                metavar="SOURCE",
                help="arithmetic, tfds, tfds:DIR or jsonl:DIR.",
            ),
            click.option(
                "--checkpoint",
                metavar="PATH",
                help="Orbax folder of a Gemma 3, or kaggle:OWNER/MODEL/flax/VARIATION.",
            ),
            click.option("--seed", type=int, metavar="N", help="Seed of the run."),
        )
    ):
        command = option(command)
    return command


def _load_recipe(
    preset: str,
    toml: str | None,
    assignments: tuple[str, ...],
    source: str | None,
    checkpoint: str | None,
    seed: int | None,
) -> recipe_lib.Recipe:
    overrides: dict[str, Any] = {}
    if checkpoint is not None:
        overrides["model"] = {"weights": "checkpoint", "checkpoint": checkpoint}
    if seed is not None:
        overrides["seed"] = seed
    return recipe_lib.load(
        preset, toml=toml, assignments=assignments, source=source, overrides=overrides
    )


class _Commands(click.Group):
    """Commands that leave it to `harness.crash` how a broken pipe ends."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise crash.BrokenPipe(error) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunix-ppo-harness")
def cli() -> None:
    """Tunix PPO on GSM8K: is it right, does it learn, will it fit, did it get worse?"""


@cli.command()
@_recipe_options
@click.option(
    "--upstream",
    "mode",
    type=click.Choice(["mended", "stock"]),
    default="mended",
    show_default=True,
    help="Mend known defects of the installed Tunix, or leave it as it is.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=pathlib.Path),
    help="Folder for everything that the run writes; new or empty.",
)
@click.option(
    "--require-gain",
    is_flag=True,
    help="Exit with 1 unless the accuracy after PPO is above the interval before it.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --out; the other options may then be left out.",
)
@click.option(
    "--continue-on-nan",
    is_flag=True,
    help="Tell of losses, rewards and gradients that are not finite, and go on.",
)
@click.option(
    "--log-probs",
    metavar="F.json",
    type=click.Path(path_type=pathlib.Path),
    help="Hold the loaded model to log-probs made by make-log-probs.",
)
@_force_option
def run(
    mode: Any,
    out: pathlib.Path,
    require_gain: bool,
    resume: bool,
    continue_on_nan: bool,
    log_probs: pathlib.Path | None,
    force: bool,
    **recipe_options: Any,
) -> int:
    """Run the recipe: evaluate, train by PPO, restore, evaluate again.

    On SIGTERM the batch in hand is finished, a checkpoint is saved, and the
    exit code is 143; a second one ends the run at once.
    """
    recipe, mode = _recipe_of_run(mode, out, resume, recipe_options)
    if not (resume and (out / "result.json").exists()):
        downloads.check(recipe)
    _quiet_libraries()
    from harness import footprint

    if not force:
        footprint.check(recipe, footprint.capacity(recipe))
    from harness import pipeline

    console = Console()
    with _until_terminated(out, at_once=mode == "stock") as stop:
        result = pipeline.run(
            recipe,
            out,
            mode=mode,
            console=console,
            resume=resume,
            stop=stop,
            continue_on_nan=continue_on_nan,
            log_probs=log_probs,
        )
    _print_result(console, recipe, mode, result, out)
    return int(require_gain and not result.gained)


@cli.command()
@_recipe_options
@click.option(
    "--device",
    type=click.Choice(["tpu", "gpu"]),
    default="tpu",
    show_default=True,
    help="What the machine must have; a GPU takes bfloat16.",
)
@click.option(
    "--max-batches",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train on and evaluate at most N batches: a smoke run.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=pathlib.Path),
    help="Folder for everything that the run writes; new or empty.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--log-probs",
    metavar="F.json",
    type=click.Path(path_type=pathlib.Path),
    help="Hold the loaded model to log-probs made by make-log-probs.",
)
@_force_option
def e2e(
    device: str,
    max_batches: int | None,
    out: pathlib.Path,
    resume: bool,
    log_probs: pathlib.Path | None,
    force: bool,
    **recipe_options: Any,
) -> int:
    """Run the recipe on a chip, and hold every figure to what it should be."""
    _quiet_libraries()
    from harness import doctor as doctor_lib

    doctor_lib.require(device)
    from harness import e2e as e2e_lib
    from harness import pipeline

    recipe = e2e_lib.recipe_for(_load_recipe(**recipe_options), device, max_batches)
    if not (resume and (out / "result.json").exists()):
        downloads.check(recipe)
    console = Console()
    console.print(_check_table(e2e_lib.examine(recipe, force=force)))
    chip = e2e_lib.chip()
    planned = e2e_lib.plan(recipe, chip, "mended") if chip else None
    console.print(
        f"planned for {chip}: it fits" if planned else "not planned: no `plan` for this chip here"
    )
    with _until_terminated(out, at_once=False) as stop:
        result = pipeline.run(
            recipe, out, console=console, resume=resume, stop=stop, log_probs=log_probs
        )
    _print_result(console, recipe, "mended", result, out)
    table = Table("figure", "measured", "expected", "holds")
    figures = e2e_lib.figures(result, planned)
    for each in figures:
        holds = {True: "yes", False: "NO", None: "-"}[each.holds]
        table.add_row(each.name, each.measured, each.expected or "-", holds)
    console.print(table)
    return int(any(each.holds is False for each in figures))


@cli.command()
@click.option("--set", "assignments", multiple=True, metavar="A.B=V", help="One field changed.")
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=pathlib.Path),
    help="Folder for checkpoint and run; new or empty. At the real size it takes 15 GB.",
)
@click.option(
    "--max-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=16.0,
    show_default=True,
    help="Host memory at which the process is ended.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    help="Exit with 1 if it took longer.",
)
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
def rehearse(
    assignments: tuple[str, ...],
    out: pathlib.Path,
    max_gib: float,
    max_minutes: float,
    json_file: pathlib.Path | None,
) -> int:
    """Run the path of e2e on random weights of the real size, on the CPU.

    Writes a Gemma 3 1B checkpoint, loads it, evaluates, trains both models on short sequences
    in bfloat16, saves, restores and evaluates again; prints seconds and bytes of each part.
    """
    # Nothing here is for an accelerator: one that happens to be in this machine is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    _quiet_libraries()
    from harness import rehearse as rehearse_lib

    console = Console()
    limits = rehearse_lib.Limits(bytes=int(max_gib * 2**30), seconds=60 * max_minutes)
    found = rehearse_lib.run(out, assignments=assignments, limits=limits, console=console)
    if json_file is not None:
        _write_json(json_file, found.to_dict())
    console.print(_rehearsal_table(found))
    for sentence in found.wrong:
        console.print(f"[bold]wrong[/bold]: {escape(sentence)}", soft_wrap=True)
    console.print(
        f"{found.seconds:.0f} seconds, peak resident set {found.peak_bytes / 2**30:.2f} GiB; "
        f"checkpoint {found.checkpoint_bytes / 1e9:.2f} GB, saved by training "
        f"{found.saved_bytes / 1e9:.2f} GB"
    )
    return int(bool(found.wrong))


def _recipe_of_run(
    mode: Any, out: pathlib.Path, resume: bool, recipe_options: dict[str, Any]
) -> tuple[recipe_lib.Recipe, Any]:
    """Gives recipe and mode: those of the run in `out`, if it goes on and none are given."""
    if not resume:
        return _load_recipe(**recipe_options), mode
    from harness import progress

    found = progress.identity_of(out)
    if found is None:
        return _load_recipe(**recipe_options), mode
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    recipe = found.recipe
    if any(given(name) for name in recipe_options):
        recipe = _load_recipe(**recipe_options)
    return recipe, mode if given("mode") else found.mode


@contextlib.contextmanager
def _until_terminated(out: pathlib.Path, *, at_once: bool) -> Iterator[Callable[[], bool]]:
    """Takes SIGTERM for the wish to end; gives whether there is one."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        del frame
        if at_once or asked:
            raise terminated(out)
        asked.append(number)
        click.echo("stopping once the batch in hand is done and saved", err=True)

    from harness.progress import terminated

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


@cli.command()
@_recipe_options
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
def account(json_file: pathlib.Path | None, **recipe_options: Any) -> None:
    """Say what a recipe will do, by arithmetic alone, and what will surprise."""
    from harness import accounting, prompt_preview

    recipe = _load_recipe(**recipe_options)
    found = accounting.account(recipe)
    prompt = prompt_preview.preview(recipe)
    tree = {**found.to_dict(), "prompt": dataclasses.asdict(prompt)}
    if json_file is not None:
        _write_json(json_file, tree)
    table = Table("figure", "value")
    for name, value in tree.items():
        if name not in ("surprises", "prompt"):
            table.add_row(name.replace("_", " "), _readable(value))
    console = Console()
    console.print(table)
    note = "" if prompt.status == "ok" else f" ({prompt.status})"
    console.print(f"[bold]First prompt[/bold]{note}: {escape(prompt.text)}", soft_wrap=True)
    if found.surprises:
        console.print("[bold]Surprises[/bold]")
    for surprise in found.surprises:
        console.print(f"  [bold]{surprise.id}[/bold]: {escape(surprise.text)}")


@cli.command()
@_recipe_options
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
def doctor(json_file: pathlib.Path | None, **recipe_options: Any) -> int:
    """Say what is here: versions, devices, memory, credentials, data, known defects."""
    recipe = _load_recipe(**recipe_options)
    _quiet_libraries()
    from harness import doctor as doctor_lib
    from harness import upstream

    present = upstream.present()
    defects = [
        doctor_lib.Check(
            f"defect {defect.id}",
            "warn" if defect.id in present else "ok",
            f"{defect.title} Mended by default: {defect.mend}"
            if defect.id in present
            else "not in this Tunix: its mend can go",
        )
        for defect in upstream.DEFECTS
        if defect.probe
    ]
    report = doctor_lib.examine(recipe, defects=defects)
    if json_file is not None:
        _write_json(json_file, report.to_dict())
    Console().print(_check_table(report))
    return 0 if report.ok else 1


@cli.command()
@click.option("--only", multiple=True, metavar="ID", help="One property; may be repeated.")
@click.option(
    "--upstream",
    "mode",
    type=click.Choice(["mended", "stock"]),
    default="mended",
    show_default=True,
    help="Mend known defects of the installed Tunix, or leave it as it is.",
)
@click.option("--slow", is_flag=True, help="Look also at properties that take minutes.")
@click.option("--reproduce", is_flag=True, help="Run each known defect's own script too.")
@click.option("--explain", metavar="ID", help="Print a property, or a defect with its script.")
@click.option(
    "--tolerances",
    metavar="F.md",
    type=click.Path(path_type=pathlib.Path),
    help="Measure noise and the smallest wrong of each tolerance, write the table, do no more.",
)
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
def check(
    only: tuple[str, ...],
    mode: Any,
    slow: bool,
    reproduce: bool,
    explain: str | None,
    tolerances: pathlib.Path | None,
    json_file: pathlib.Path | None,
) -> int:
    """Hold the installed Tunix to every property, and name what the ledger knows."""
    _quiet_libraries()
    warnings.simplefilter("ignore")  # upstream's own, at every step
    if slow:
        import jax

        # For meshes; said before JAX looks for devices.
        jax.config.update("jax_num_cpu_devices", 8)
    from harness.checks import conformance

    if explain is not None:
        click.echo(conformance.explain(explain))
        return 0
    console = Console()
    if tolerances is not None:
        with console.status("measuring tolerances"):
            write_whole(tolerances, conformance.tolerances(mode))
        console.print(f"written: {escape(str(tolerances))}", soft_wrap=True)
        return 0
    with console.status("recording a training run") as status:
        report = conformance.check(
            mode,
            only=only,
            slow=slow,
            reproduce=reproduce,
            progress=lambda what: status.update(escape(what)),
        )
    if json_file is not None:
        _write_json(json_file, report.to_dict())
    table = Table("property", "area", "status", "tolerance", "used of it")
    for each in report.outcomes:
        table.add_row(
            each.property.id,
            each.property.area,
            each.status,
            str(each.property.tolerance),
            f"{each.distance:.2g}" if each.status == "pass" else "-",
        )
    console.print(table)
    ledger = Table("defect", "present", "mended", "what")
    for each in report.findings:
        present = {True: "yes", False: "no", None: "not looked at"}[each.present]
        ledger.add_row(each.defect.id, present, "yes" if each.mended else "no", each.defect.title)
        if each.reproduction:
            ledger.add_row("", "", "", escape(each.reproduction.output))
    console.print(ledger)
    for each in report.outcomes:
        if each.status in ("fail", "error"):
            console.print(f"[bold]{each.property.id}[/bold]: {escape(each.property.statement)}")
            for said in each.said[:5]:
                console.print(f"  {escape(said)}")
    for name in report.gone:
        console.print(
            f"[bold]{name} is gone from Tunix {report.version}[/bold]: "
            "its mend was not applied and can go"
        )
    console.print(f"Tunix {report.version} ({mode}): {'as known' if report.ok else 'NOT as known'}")
    return 0 if report.ok else 1


@cli.command()
@click.argument("files", nargs=-1, metavar="[BASELINE.json CANDIDATE.json]")
@click.option("--against", metavar="REF", help="Measure against a git reference, or tunix==X.")
@click.option(
    "--tier",
    "tiers",
    multiple=True,
    type=click.Choice(["exact", "time"]),
    help="Tier of --against; may be repeated; both if none is given.",
)
@click.option(
    "--learning",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=pathlib.Path),
    help="A run's folder to hold to the stored reference runs; one per seed.",
)
@click.option("--preset", default="tiny", show_default=True, help="Whose shapes are measured.")
@click.option("--set", "assignments", multiple=True, metavar="A.B=V", help="One field changed.")
@click.option(
    "--upstream",
    "mode",
    type=click.Choice(["mended", "stock"]),
    help="Mend Tunix or not [default: stock against another Tunix, else mended].",
)
@click.option("--core", type=int, metavar="N", help="Core to which both arms are pinned.")
@click.option("--rounds", type=click.IntRange(3), default=9, show_default=True)
@click.option("--dirty", is_flag=True, help="Judge changes that are not committed too.")
@click.option("--update-baseline", is_flag=True, help="Take what was measured as the baseline.")
@click.option("--reason", default="", metavar="WHY", help="Why the baseline is changed; kept.")
@click.option(
    "--baselines",
    metavar="DIR",
    type=click.Path(path_type=pathlib.Path),
    help="Where baselines live [default: baselines/ of the checkout].",
)
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
@click.option("--markdown", metavar="F", type=click.Path(path_type=pathlib.Path))
def gate(
    files: tuple[str, ...],
    json_file: pathlib.Path | None,
    markdown: pathlib.Path | None,
    **asked: Any,
) -> int:
    """Did it get worse? Hold figures, times and learning to a baseline.

    Without arguments the exact figures of this checkout are held to the stored
    baseline. Exit code 0 for PASS, 1 for FAIL, 2 for INCONCLUSIVE and NOT
    COMPARABLE.
    """
    from harness import cache
    from harness.gate import command

    report = command.run(
        [pathlib.Path(each) for each in files],
        environments=cache.cache_root() / "arms",
        progress=lambda what: click.echo(what, err=True),
        **asked,
    )
    text = report.to_markdown()
    click.echo(text, nl=False)
    if markdown is not None:
        write_whole(markdown, text)
    if json_file is not None:
        _write_json(json_file, report.to_dict())
    return report.exit_code


@cli.command()
@_recipe_options
@click.option("--chip", default="v6e-1", show_default=True, help="Slice that is planned for.")
@click.option("--program", "names", multiple=True, metavar="NAME", help="One; may be repeated.")
@click.option(
    "--micro-batch",
    "sizes",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Sequences in one call instead of the recipe's; may be repeated.",
)
@click.option("--sweep", is_flag=True, help="Find the walls and better sizes; takes long.")
@click.option(
    "--recommend",
    "recommended",
    metavar="F.toml",
    type=click.Path(path_type=pathlib.Path),
    help="Search the fastest settings that fit, and write them for run --recipe; takes long.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="A change of the algorithm that --recommend may make; may be repeated; or all.",
)
@click.option(
    "--certain",
    is_flag=True,
    help="With --recommend, compile what a line predicts not to fit, too.",
)
@click.option(
    "--upstream",
    "mode",
    type=click.Choice(["mended", "stock"]),
    default="mended",
    show_default=True,
    help="Plan for Tunix as `run` mends it, or as it is.",
)
@click.option("--workers", type=click.IntRange(1, 8), help="Compilers side by side.")
@click.option(
    "--compiler-flags",
    default="",
    metavar="FLAGS",
    help="Flags for the TPU compiler; no variable of the environment reaches it.",
)
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
def plan(
    chip: str,
    names: tuple[str, ...],
    sizes: tuple[int, ...],
    sweep: bool,
    recommended: pathlib.Path | None,
    allow: tuple[str, ...],
    certain: bool,
    mode: Any,
    workers: int | None,
    compiler_flags: str,
    json_file: pathlib.Path | None,
    **recipe_options: Any,
) -> int:
    """Compile the recipe for a TPU that is not here: HBM, walls, bounds of time."""
    # Nothing runs here: a TPU that happens to be in this machine is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    recipe = _load_recipe(**recipe_options)
    _quiet_libraries()
    from harness.plan import (
        advice,
        changes,
        chips,
        compiler,
        planning,
        recommend,
        shapes,
        store,
        table,
    )

    place = chips.find(chip)
    shapes.check(names)
    _check_recommendation(recommended, allow, certain, names or sizes or sweep)
    changes.check(allow)
    if recommended is None:
        chips.check_mesh(place, recipe.sharding)
    console = Console()
    said = Console(stderr=True)

    def progress(text: str) -> None:
        said.print(escape(text), style="dim", soft_wrap=True)

    with (
        compiler.Compiler(
            place,
            store.Store(compiler_flags=compiler_flags),
            workers=workers,
            progress=progress,
        ) as compiling,
    ):
        planner = planning.Planner(recipe, mode, compiling, any_mesh=recommended is not None)
        if recommended is not None:
            found = recommend.make(planner, allow=allow, certain=certain, progress=progress)
        else:
            found = planning.make(planner, names=names, sizes=sizes, sweep=sweep)
    found["compiler_flags"] = compiler_flags
    found["host"]["variables_not_passed_on"] = list(compiling.not_passed_on)
    if json_file is not None:
        _write_json(json_file, found)
    if recommended is None:
        console.print(table.render(found))
        return 0 if found["fits"] else 1
    console.print(advice.render(found))
    if not found["fits"]:
        return 1
    write_whole(recommended, advice.to_toml(found))
    console.print(f"written: {escape(str(recommended))}", soft_wrap=True)
    return 0


def _check_recommendation(
    recommended: pathlib.Path | None, allow: tuple[str, ...], certain: bool, others: Any
) -> None:
    """Refuse options that make no sense together, and a file that could not be written."""
    if recommended is None:
        if allow or certain:
            raise HarnessError("--allow and --certain belong to --recommend F.toml: add it")
        return
    if others:
        raise HarnessError(
            "--recommend searches all programs and sizes: leave out --program, --micro-batch "
            "and --sweep"
        )
    folder = recommended.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or recommended.is_dir():
        raise HarnessError(
            f"the recommendation cannot be written to {recommended}: name a file in a folder "
            "that exists and can be written"
        )


@cli.command()
@click.argument(
    "results",
    nargs=-1,
    required=True,
    metavar="DIR...",
    type=click.Path(path_type=pathlib.Path),
)
@click.option(
    "--out", required=True, metavar="F.html", type=click.Path(path_type=pathlib.Path), help="Page."
)
def report(results: tuple[pathlib.Path, ...], out: pathlib.Path) -> int:
    """Make one page of results: folders, or files of run, check, plan, gate and benchmarks."""
    from harness import report as report_lib

    page, sources = report_lib.make(results)
    write_whole(out, page)
    for each in sources.used:
        click.echo(f"{each.name}: {each.path}")
    for each in sources.skipped[:5]:
        click.echo(f"skipped {each.path}: {each.why}")
    if len(sources.skipped) > 5:
        click.echo(f"skipped {len(sources.skipped) - 5} more, which the page lists")
    click.echo(f"written: {out}")
    return 0


@cli.command("recipe")
@_recipe_options
def show_recipe(**recipe_options: Any) -> None:
    """Print a recipe as TOML, ready to be edited and given back with --recipe."""
    click.echo(recipe_lib.to_toml(_load_recipe(**recipe_options)), nl=False)


@cli.command("make-tokenizer")
@click.argument("path", type=click.Path(path_type=pathlib.Path))
@click.option("--vocab-size", default=512, show_default=True)
def make_tokenizer(path: pathlib.Path, vocab_size: int) -> None:
    """Train the small tokenizer of the tiny preset and write it to PATH."""
    from harness import tokenizer

    tokenizer.train(path, vocab_size)
    click.echo(f"written: {path}")


@cli.command("make-log-probs")
@_recipe_options
@click.argument("path", type=click.Path(path_type=pathlib.Path))
def make_log_probs(path: pathlib.Path, **recipe_options: Any) -> None:
    """Write the model's log-probs of a fixed prompt to PATH, to hold later loads to."""
    recipe = _load_recipe(**recipe_options)
    downloads.check(recipe_lib.replace(recipe, "data.source=arithmetic"))  # weights alone
    _quiet_libraries()
    from harness import models, pipeline
    from harness import tokenizer as tokenizer_lib
    from harness.models import kaggle, probe

    def report(line: str) -> None:
        click.echo(line, err=True)

    recipe = kaggle.local(recipe, report)
    mesh = models.make_mesh(recipe.sharding)
    policy = pipeline.make_policy(recipe, mesh, report)
    probe.write(probe.log_probs(policy, tokenizer_lib.load(recipe), mesh), path)
    click.echo(f"written: {path}")


def _quiet_libraries() -> None:
    """Keeps the libraries' own log lines out of the way of what was asked."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


def _print_result(
    console: Console, recipe: recipe_lib.Recipe, mode: str, result: Any, out: pathlib.Path
) -> None:
    table = Table("", "accuracy", "95% interval", "format accuracy", "problems")
    for name, found in (("before PPO", result.baseline), ("after PPO", result.trained)):
        low, high = found.accuracy_ci95
        table.add_row(
            name,
            f"{found.accuracy:.3f}",
            f"{low:.3f} .. {high:.3f}",
            f"{found.format_accuracy:.3f}",
            str(found.total),
        )
    console.print(table)
    console.print(_phase_table(result.phases))
    dropped = {split: count for split, count in result.long_prompts.items() if count}
    if dropped:
        console.print(
            f"dropped for prompts over {recipe.rollout.max_prompt_length} tokens: "
            + ", ".join(f"{count} {split}" for split, count in dropped.items())
        )
    for each in result.warnings:
        console.print(f"[bold]{each.id}[/bold]: {escape(each.text)}", soft_wrap=True)
    console.print(
        f"Tunix {result.to_dict()['upstream']['version']} ({mode}); mends: "
        f"{', '.join(result.mends) or 'none'}; checkpoint of step {result.checkpoint_step}"
    )
    console.print(f"written: {escape(str(out / 'result.json'))}", soft_wrap=True)


def _rehearsal_table(found: Any) -> Table:
    table = Table(
        *("part", "calls", "seconds", "of it first call", "on processors"),
        *("peak GiB", "held after, GiB"),
    )
    depth: dict[str | None, int] = {None: 0}
    for each in found.parts:
        depth[each["name"]] = depth[each["within"]] + 1
        table.add_row(
            "  " * (depth[each["name"]] - 1) + each["name"],
            str(each["calls"]),
            f"{each['seconds']:.1f}",
            f"{each['first_seconds']:.1f}",
            f"{each['processor_seconds']:.1f}",
            f"{each['peak_bytes'] / 2**30:.2f}",
            f"{each['end_bytes'] / 2**30:.2f}",
        )
    return table


def _check_table(report: Any) -> Table:
    table = Table("check", "status", "detail")
    for check in report.checks:
        table.add_row(escape(check.name), check.status, escape(check.detail))
    return table


def _phase_table(phases: list[dict[str, Any]]) -> Table:
    table = Table("phase", "seconds", "of it compiling", "peak device memory")
    for phase in phases:
        peak = phase["peak_bytes"]
        table.add_row(
            phase["name"],
            f"{phase['seconds']:.1f}",
            f"{phase['compile_seconds']:.1f}",
            "not told by this device" if peak is None else f"{peak / 2**30:.2f} GiB",
        )
    return table


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_readable(inner) for inner in value) or "none"
    if value is None:
        return "not known"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _write_json(path: pathlib.Path, tree: dict[str, Any]) -> None:
    write_whole(path, json.dumps(tree, indent=2) + "\n")
