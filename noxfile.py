"""Sessions: `nox -l` lists them; what follows `--` goes to the tool behind one."""

import os
import pathlib
import platform
import re
import shutil
from typing import Any

import nox
import nox.command

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["unit"]

CONSTRAINTS = str(pathlib.Path(__file__).with_name("constraints.txt"))
# Releases of Tunix that the tests pass on; the registry says what is wrong in each.
RELEASES = ("0.1.6", "0.1.7")
# What dozens of processes import is compiled once, also where the environment says not to.
CPU = {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": ""}
# Small programs spend their time in the compiler, not in what it makes faster.
CONFORMANCE = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "OPENBLAS_NUM_THREADS": "1",
}


def install(session: nox.Session, *extras: str) -> None:
    """Install the harness with extras, everything as pinned, build tools too."""
    target = f".[{','.join(extras)}]" if extras else "."
    env = {"PIP_BUILD_CONSTRAINT": CONSTRAINTS, "UV_BUILD_CONSTRAINT": CONSTRAINTS}
    pip_install(session, "-c", CONSTRAINTS, "-e", target, env=env)


def pip_install(session: nox.Session, *arguments: str, **options: Any) -> None:
    """Install packages, or ends with 2: an environment that is missing answers nothing."""
    try:
        session.install(*arguments, **options)
    except nox.command.CommandFailed:  # nox has shown what the installer said
        raise SystemExit(2) from None


def run(session: nox.Session, *command: str, **options: Any) -> None:
    """Run a command whose exit code is its answer, and ends with that code.

    nox makes 1 of every failure, and 1 is an answer, "no": that it could not
    be done (2), or crashed (70), must not be taken for it.
    """
    try:
        session.run(*command, **options)
    except nox.command.CommandFailed as error:
        found = re.search(r"code (-?\d+)", str(error.reason))
        code = int(found[1]) if found else 2  # it was not there to be run
        if code == 1:
            raise
        # What a signal ended has minus its number; a shell says 128 more.
        raise SystemExit(code if code > 0 else 128 - code) from None


def _install_for_tests(session: nox.Session) -> None:
    """Install what the tests use, the compiler for absent TPUs too where its wheel exists."""
    install(session, "dev", "report", "tpu-compiler")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        session.log("the TPU compiler is for Linux on x86-64 alone: its test is skipped here")


@nox.session
def unit(session: nox.Session) -> None:
    """The tests, on the CPU, on all its cores."""
    _install_for_tests(session)
    run(
        session,
        *("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"),
        *session.posargs,
        env=CPU,
    )


@nox.session
@nox.parametrize("tunix", RELEASES)
def matrix(session: nox.Session, tunix: str) -> None:
    """The tests on each supported release of Tunix, or on one: -s "matrix(tunix='0.1.6')"."""
    _install_for_tests(session)
    # The rest of the tested set stays; the releases ask for the same of it.
    pip_install(session, "--no-deps", f"google-tunix=={tunix}")
    run(
        session,
        *("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"),
        *session.posargs,
        env=CPU,
    )


@nox.session
def cpu_e2e(session: nox.Session) -> None:
    """The recipe on the tiny model, on the CPU; writes runs/cpu_e2e unless given `--out`."""
    install(session)
    arguments = list(session.posargs)
    if not any(each == "--out" or each.startswith("--out=") for each in arguments):
        out = pathlib.Path("runs", "cpu_e2e")
        if "--resume" not in arguments:
            shutil.rmtree(out, ignore_errors=True)
        arguments = ["--out", os.fspath(out), *arguments]
    run(
        session,
        "python",
        *("-m", "harness", "run", "--preset", "tiny", "--require-gain"),
        *arguments,
        env=CPU,
    )


@nox.session
def tpu_e2e(session: nox.Session) -> None:
    """The reference recipe on Gemma 3 1B, on a TPU; writes runs/tpu_e2e unless given `--out`."""
    install(session, *(["tpu"] if _has_tpu() else []))
    _e2e(session, "tpu")


@nox.session
def gpu_e2e(session: nox.Session) -> None:
    """The same on a GPU, in bfloat16; writes runs/gpu_e2e unless given `--out`."""
    install(session, *(["gpu"] if shutil.which("nvidia-smi") else []))
    _e2e(session, "gpu")


def _has_tpu() -> bool:
    """Return whether Linux shows a TPU's device; libtpu is of use with one alone."""
    return any(pathlib.Path("/dev").glob("accel*")) or pathlib.Path("/dev/vfio/0").exists()


def _e2e(session: nox.Session, device: str) -> None:
    arguments = list(session.posargs)
    if not any(each == "--out" or each.startswith("--out=") for each in arguments):
        arguments = ["--out", os.fspath(pathlib.Path("runs", f"{device}_e2e")), *arguments]
    command = ("python", "-m", "harness", "e2e", "--preset", "gemma3-1b", "--data", "tfds")
    run(session, *command, "--device", device, *arguments)


@nox.session
def rehearse(session: nox.Session) -> None:
    """The path of e2e on random weights of the real size, on the CPU; writes runs/rehearse."""
    install(session)
    arguments = list(session.posargs)
    if not any(each == "--out" or each.startswith("--out=") for each in arguments):
        out = pathlib.Path("runs", "rehearse")
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["--out", os.fspath(out), *arguments]
    if not any(each == "--json" or each.startswith("--json=") for each in arguments):
        pathlib.Path("runs").mkdir(exist_ok=True)
        arguments += ["--json", os.fspath(pathlib.Path("runs", "rehearse.json"))]
    # XLA would hold a float32 copy of all bfloat16 weights while it decodes.
    flags = {"XLA_FLAGS": "--xla_disable_hlo_passes=while-loop-invariant-code-motion"}
    run(session, "python", "-m", "harness", "rehearse", *arguments, env=CPU | flags)


@nox.session
def kill_study(session: nox.Session) -> None:
    """Kill runs at 20 seeded moments, and holds each resumed run to one never killed."""
    install(session)
    run(session, "python", "-m", "tests.support.killing", *session.posargs, env=CPU | CONFORMANCE)


@nox.session
def mesh_study(session: nox.Session) -> None:
    """Run the recipe, a resume included, on every mesh of eight devices, and compares them."""
    install(session)
    run(session, "python", "-m", "tests.support.meshes", *session.posargs, env=CPU | CONFORMANCE)


@nox.session
def fix_study(session: nox.Session) -> None:
    """Take each fix away by itself, and hold what then fails to the issues that name it."""
    install(session)
    test = "tests/integration/test_each_fix.py"
    run(session, *("pytest", test, "-m", "study", "-n", "auto"), *session.posargs, env=CPU)


@nox.session
def conformance(session: nox.Session) -> None:
    """Every property, slow ones too, and every reproduction, on Tunix stock and patched."""
    install(session)
    for mode in ("stock", "patched"):
        run(
            session,
            *("python", "-m", "harness", "check", "--slow", "--upstream", mode),
            *(["--reproduce"] if mode == "stock" else []),
            *session.posargs,
            env=CPU | CONFORMANCE,
        )


@nox.session
def bench(session: nox.Session) -> None:
    """Time the pieces of a global step; writes runs/bench.json unless given another file."""
    install(session)
    arguments = list(session.posargs)
    if not any(each.startswith("--benchmark-json") for each in arguments):
        pathlib.Path("runs").mkdir(exist_ok=True)
        arguments.append(f"--benchmark-json={pathlib.Path('runs', 'bench.json')}")
    run(session, "pytest", "benchmarks", "--benchmark-only", *arguments)


@nox.session
def gate(session: nox.Session) -> None:
    """Hold this checkout to the stored baselines, or to what `--against` names."""
    install(session, "dev")
    run(session, "python", "-m", "harness", "gate", *session.posargs)


@nox.session
def gate_study(session: nox.Session) -> None:
    """Measure how often the time tier is wrong, and writes docs/gate_study.md; half an hour."""
    install(session)
    out = pathlib.Path("runs", "gate_study.jsonl")
    study = ("python", "-m", "benchmarks.gate_study")
    env = {**CPU, "PYTHONPATH": os.fspath(pathlib.Path(__file__).parent)}
    run(session, *study, "collect", "--out", os.fspath(out), *session.posargs, env=env)
    run(session, *study, "report", os.fspath(out), "--markdown", "docs/gate_study.md", env=env)


@nox.session
def plan(session: nox.Session) -> None:
    """The reference plan made again and held to the committed one; `--update` rewrites it."""
    install(session, "tpu-compiler", "report")
    committed = "plans/gemma3-1b.v6e-1.json"
    made = os.path.join(session.create_tmp(), "plan.json")
    arguments = [each for each in session.posargs if each != "--update"]
    update = len(arguments) < len(session.posargs)
    if update and "--sweep" not in arguments:
        arguments.append("--sweep")  # the committed plan has the largest micro-batches
    run(
        session,
        *("python", "-m", "harness", "plan", "--preset", "gemma3-1b", "--chip", "v6e-1"),
        *("--json", made),
        *arguments,
        env=CPU,
        success_codes=[0, 1],  # whether it fits is not the question here
    )
    compare = ("python", "-m", "harness.plan.regression", committed, made)
    run(session, *compare, *(["--update"] if update else []), env=CPU)
    if update:
        picture = "docs/gemma3-1b.v6e-1.svg"
        run(session, "python", "-m", "harness.plan.picture", committed, picture, env=CPU)
        run(session, "python", "-m", "harness.docs", env=CPU)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site in runs/site; a broken link or a stale page fails."""
    install(session, "docs")
    run(session, "python", "-m", "harness.docs", "--check", env=CPU)
    # The theme would announce its successor at each build.
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    run(session, "python", "-m", "mkdocs", "build", "--strict", *session.posargs, env=quiet)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, borders between the rooms, and types."""
    install(session, "dev", "report")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("pyright")
