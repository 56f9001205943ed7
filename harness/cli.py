"""The command line: parses, calls, prints.

Exit codes: 0 done and good; 1 done, and the answer is no; 2 could not be done,
with one line that names the thing and the mend.
"""

import json
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

# Said before XLA loads, or its C++ log lines drown what a person came to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import files
from harness import recipe as recipe_lib
from harness.errors import HarnessError


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits.

    Args:
      argv: Arguments after the program's name; those of the process if none.
    """
    try:
        code = cli.main(args=argv, prog_name="ppo-harness", standalone_mode=False)
    except HarnessError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = 130
    sys.exit(code or 0)


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
            click.option("--checkpoint", metavar="PATH", help="Orbax folder of a Gemma 3."),
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
def run(mode: Any, out: pathlib.Path, require_gain: bool, **recipe_options: Any) -> int:
    """Run the recipe: evaluate, train by PPO, restore, evaluate again."""
    recipe = _load_recipe(**recipe_options)
    _quiet_libraries()
    from harness import pipeline

    console = Console()
    result = pipeline.run(recipe, out, mode=mode, console=console)
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
    console.print(
        f"Tunix {result.to_dict()['upstream']['version']} ({mode}); mends: "
        f"{', '.join(result.mends) or 'none'}; checkpoint of step {result.checkpoint_step}"
    )
    console.print(f"written: {escape(str(out / 'result.json'))}", soft_wrap=True)
    return int(require_gain and not result.gained)


@cli.command()
@_recipe_options
@click.option("--json", "json_file", metavar="F", type=click.Path(path_type=pathlib.Path))
def account(json_file: pathlib.Path | None, **recipe_options: Any) -> None:
    """Say what a recipe will do, by arithmetic alone, and what will surprise."""
    from harness import accounting

    found = accounting.account(_load_recipe(**recipe_options))
    tree = found.to_dict()
    if json_file is not None:
        _write_json(json_file, tree)
    table = Table("figure", "value")
    for name, value in tree.items():
        if name != "surprises":
            table.add_row(name.replace("_", " "), _readable(value))
    console = Console()
    console.print(table)
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
    table = Table("check", "status", "detail")
    for check in report.checks:
        table.add_row(escape(check.name), check.status, escape(check.detail))
    Console().print(table)
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
            files.write_whole(tolerances, conformance.tolerances(mode))
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
    files.write_whole(out, page)
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


def _quiet_libraries() -> None:
    """Keeps the libraries' own log lines out of the way of what was asked."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


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
    files.write_whole(path, json.dumps(tree, indent=2) + "\n")
