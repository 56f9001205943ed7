"""Sessions: `nox -l` lists them; what follows `--` goes to the tool behind one."""

import os
import pathlib
import shutil

import nox
import nox.command

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["unit"]

CONSTRAINTS = str(pathlib.Path(__file__).with_name("constraints.txt"))
CPU = {"JAX_PLATFORMS": "cpu"}
# Small programs spend their time in the compiler, not in what it makes faster.
CONFORMANCE = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "OPENBLAS_NUM_THREADS": "1",
}


def install(session: nox.Session, *extras: str) -> None:
    """Installs the harness with extras, everything as pinned, build tools too."""
    target = f".[{','.join(extras)}]" if extras else "."
    session.install(
        "-c",
        CONSTRAINTS,
        "-e",
        target,
        env={"PIP_BUILD_CONSTRAINT": CONSTRAINTS, "UV_BUILD_CONSTRAINT": CONSTRAINTS},
    )


@nox.session
def unit(session: nox.Session) -> None:
    """The tests, on the CPU, on all its cores."""
    install(session, "dev", "report")
    session.run(
        *("pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"),
        *session.posargs,
        env=CPU,
    )


@nox.session
def cpu_e2e(session: nox.Session) -> None:
    """The recipe on the tiny model, on the CPU; writes runs/cpu_e2e unless told `--out`."""
    install(session)
    arguments = list(session.posargs)
    if not any(each == "--out" or each.startswith("--out=") for each in arguments):
        out = pathlib.Path("runs", "cpu_e2e")
        if "--resume" not in arguments:
            shutil.rmtree(out, ignore_errors=True)
        arguments = ["--out", os.fspath(out), *arguments]
    session.run(
        "python",
        *("-m", "harness", "run", "--preset", "tiny", "--require-gain"),
        *arguments,
        env=CPU,
    )


@nox.session
def tpu_e2e(session: nox.Session) -> None:
    """The reference recipe on Gemma 3 1B, on a TPU; writes runs/tpu_e2e unless told `--out`."""
    install(session, *(["tpu"] if _has_tpu() else []))
    _e2e(session, "tpu")


@nox.session
def gpu_e2e(session: nox.Session) -> None:
    """The same on a GPU, in bfloat16; writes runs/gpu_e2e unless told `--out`."""
    install(session, *(["gpu"] if shutil.which("nvidia-smi") else []))
    _e2e(session, "gpu")


def _has_tpu() -> bool:
    """Tells whether Linux shows a TPU's device; libtpu is of use with one alone."""
    return any(pathlib.Path("/dev").glob("accel*")) or pathlib.Path("/dev/vfio/0").exists()


def _e2e(session: nox.Session, device: str) -> None:
    arguments = list(session.posargs)
    if not any(each == "--out" or each.startswith("--out=") for each in arguments):
        arguments = ["--out", os.fspath(pathlib.Path("runs", f"{device}_e2e")), *arguments]
    command = ("python", "-m", "harness", "e2e", "--preset", "gemma3-1b", "--data", "tfds")
    try:
        session.run(*command, "--device", device, *arguments)
    except nox.command.CommandFailed as error:
        # nox makes 1 of every failure; that a machine lacks the chip is no failed run.
        if "code 2" in str(error.reason):
            raise SystemExit(2) from None
        raise


@nox.session
def kill_study(session: nox.Session) -> None:
    """Kills runs at 20 seeded moments, and holds each resumed run to one never killed."""
    install(session)
    session.run("python", "-m", "tests.killing", *session.posargs, env=CPU | CONFORMANCE)


@nox.session
def conformance(session: nox.Session) -> None:
    """Every property, slow ones too, and every reproduction, on Tunix stock and mended."""
    install(session)
    for mode in ("stock", "mended"):
        session.run(
            *("python", "-m", "harness", "check", "--slow", "--upstream", mode),
            *(["--reproduce"] if mode == "stock" else []),
            *session.posargs,
            env=CPU | CONFORMANCE,
        )


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types."""
    install(session, "dev", "report")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright")
