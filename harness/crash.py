"""How a program ends: with which exit code, and what it says when it ends unforeseen.

Exit code 1 is an answer, "no". So what was not foreseen, for which Python ends
with 1 and a traceback, ends with 70 (`EX_SOFTWARE` of sysexits.h): one line
that asks for a report and names the file that holds the traceback.

It rests on the standard library alone, so that it also holds when a package
that the harness needs is missing or broken.
"""

import contextlib
import importlib.metadata
import json
import netrc
import os
import pathlib
import platform
import re
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import NoReturn

from harness import cache, errors

UNFORESEEN = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

_SHOWN = 200
_PACKAGES = ("tunix-ppo-harness", "google-tunix", "jax", "jaxlib", "flax", "orbax-checkpoint")
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 4
_SECRET_TEXTS = (
    (re.compile(r"(://)[^/\s@]*:[^/\s@]*@"), r"\1...@"),
    (re.compile(r"(?i)\b(basic|bearer)\s+[\w+/=.~-]{4,}"), r"\1 ..."),
    (re.compile(r"(?i)([?&][\w-]*(?:key|token|signature|credential|secret|password)=)[^&\s'\"]+"),
     r"\1..."),
)  # fmt: skip


class BrokenPipe(Exception):
    """Carries a `BrokenPipeError` past a library that would make exit code 1 of it.

    Attributes:
      error: The error.
    """

    def __init__(self, error: BrokenPipeError):
        """Take the error."""
        super().__init__(str(error))
        self.error = error


def end(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with the code that says how it ended.

    Args:
      main: Returns the exit code; `None` is 0.
    """
    sys.exit(exit_code(main))


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a program; return how it ended, after saying so on standard error.

    Args:
      main: Returns the exit code; `None` is 0.

    Returns:
      What `main` returned; that of a `HarnessError`; 70 where the end was not
      foreseen; 130 after an interrupt; 141 where what reads the output is gone.
    """
    interrupts: list[int] = []
    try:
        with _noting(interrupts):
            return main() or 0
    except errors.HarnessError as error:
        _print(f"error: {_line(str(error))}")
        return error.exit_code
    except KeyboardInterrupt:
        _print("interrupted")
        return INTERRUPTED
    except BaseException as raised:
        error = raised.error if isinstance(raised, BrokenPipe) else raised
        if _output_is_gone(error):
            return BROKEN_PIPE
        if interrupts:
            _print("interrupted")
            return INTERRUPTED
        if isinstance(error, SystemExit) and _is_argparse(error):
            return error.code if isinstance(error.code, int) else 0
        _print(_describe(error))
        return UNFORESEEN


@contextlib.contextmanager
def _noting(interrupts: list[int]) -> Iterator[None]:
    """Note each Ctrl-C: an extension that is being loaded makes another error of it."""

    def note(number: int, frame: types.FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def write_report(error: BaseException) -> pathlib.Path | None:
    """Write a traceback to a file of its own, without credentials.

    Args:
      error: What ended the program. Neither variables nor the environment are
        written, and what looks like a credential in a message is left out.

    Returns:
      The file, or `None` if none can be written.
    """
    text = hide_credentials(_report(error))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            # For its owner alone: a message may hold more than this module knows of.
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
            return path
    return None


def _folders() -> Iterator[pathlib.Path]:
    """Yield where a report may be, the best first."""
    with contextlib.suppress(ImportError):  # the package that knows the cache may be what is broken
        yield cache.cache_root() / "crashes"
    yield pathlib.Path(tempfile.gettempdir())


def hide_credentials(text: str) -> str:
    """Return a text without the credentials of this machine and what looks like one.

    These are values of environment variables whose names say so, Kaggle's
    files, `.netrc`, passwords in addresses, and HTTP authorization.
    """
    for name, value in sorted(_secrets(), key=lambda each: -len(each[1])):
        text = text.replace(value, f"<{name}>")
    for pattern, instead in _SECRET_TEXTS:
        text = pattern.sub(instead, text)
    return text


def _secrets() -> Iterator[tuple[str, str]]:
    found = [(name, value) for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    home = pathlib.Path(os.path.expanduser("~"))
    kaggle = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR") or home / ".kaggle")
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(("kaggle.json", str(json.loads((kaggle / "kaggle.json").read_text())["key"])))
    for name in ("access_token", "access_token.txt"):
        with contextlib.suppress(OSError, ValueError):
            found.append((name, (home / ".kaggle" / name).read_text().strip()))
    with contextlib.suppress(OSError, netrc.NetrcParseError, ValueError):
        hosts = netrc.netrc(os.environ.get("NETRC") or home / ".netrc").hosts
        found += [(".netrc", password) for _, _, password in hosts.values() if password]
    for name, value in found:
        # A path or a number is no secret, and would be hidden wherever it stands.
        if len(value) >= _SHORTEST_SECRET and not value.startswith("/"):
            yield name, value


def _report(error: BaseException) -> str:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    command = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]])
    lines = [f"command: {command}", *(f"{name}: {value}" for name, value in versions.items())]
    # Without variables: they hold whatever the program held.
    trace = "".join(traceback.format_exception(error))
    return "\n".join([*lines, "", trace, *getattr(error, "reports", ())])


def _describe(error: BaseException) -> str:
    text = _line(hide_credentials(str(error)))
    what = f"{type(error).__name__}: {text[:_SHOWN]}" if text else type(error).__name__
    path = write_report(error)
    where = f"the traceback in {path}" if path else "what you did (the traceback can't be written)"
    return f"error: this was not foreseen ({what}): please report it with {where}"


def _output_is_gone(error: BaseException) -> bool:
    """Return whether a program ended because what reads its output did.

    Rich turns this into `SystemExit(1)`.
    """
    if isinstance(error, SystemExit):
        return isinstance(error.__context__, BrokenPipeError)
    if not isinstance(error, BrokenPipeError):
        return False
    asked = select.poll()
    try:
        asked.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError, AttributeError):  # it is no file
        return False
    return any(events & select.POLLERR for _, events in asked.poll(0))


def _is_argparse(error: SystemExit) -> bool:
    """Return whether argparse ends a program: it has said why, or printed the help."""
    last = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        last = frame
    return last is not None and last.f_globals.get("__name__") == "argparse"


def quiet_end() -> None:
    """Flush the output; what cannot be written is dropped, as are threads' last words."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    os.dup2(null, 1)


def _line(text: str) -> str:
    return " ".join(text.split())


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr)
