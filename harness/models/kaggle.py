"""Weights from Kaggle: downloaded once, stored by kagglehub, each failure in a line of its own."""

import contextlib
import io
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

from harness import downloads, errors
from harness import recipe as recipe_lib

PREFIX = downloads.KAGGLE
GEMMA3_1B = f"{PREFIX}google/gemma-3/flax/gemma3-1b-it"


def local(
    recipe: recipe_lib.Recipe, report: Callable[[str], None] = lambda line: None
) -> recipe_lib.Recipe:
    """Return the recipe with its weights where they can be read.

    Args:
      recipe: Any; where `model.checkpoint` is `kaggle:` and a handle, such as
        `GEMMA3_1B`, the model is downloaded if kagglehub does not hold it.
      report: Called with a line where a version downloaded earlier is used.

    Returns:
      The recipe with a folder in `model.checkpoint`; any other as it is.

    Raises:
      HarnessError: It cannot be downloaded.
    """
    checkpoint = recipe.model.checkpoint
    if recipe.model.weights != "checkpoint" or not (checkpoint or "").startswith(PREFIX):
        return recipe
    folder = download(str(checkpoint).removeprefix(PREFIX), report)
    return recipe_lib.replace(recipe, f'model.checkpoint="{folder}"')


def download(handle: str, report: Callable[[str], None] = lambda line: None) -> pathlib.Path:
    """Download a model, or find it where kagglehub stores it.

    A model that was downloaded needs no network: of a handle without version,
    the newest one that is here is used where Kaggle cannot be asked.

    Credentials are kagglehub's: `KAGGLE_API_TOKEN`, `KAGGLE_USERNAME` with
    `KAGGLE_KEY`, or the files in `~/.kaggle`. They are in no message.

    Args:
      handle: `owner/model/framework/variation`, a version after it if wished.
      report: Called with a line where a version downloaded earlier is used.

    Returns:
      The folder.

    Raises:
      HarnessError: No handle; no credentials, or refused ones; a licence that is not
        accepted; no such model; no network; no room; a damaged download.
    """
    import kagglehub
    import requests
    from kagglehub import exceptions

    held = downloads.cached_model(handle)
    versioned = held is not None and handle.rstrip("/").endswith(f"/{held.name}")
    reason = None if versioned else downloads.kaggle_unreachable()
    if reason:
        return _without_kaggle(handle, held, reason, report)
    page = f"kaggle.com/models/{'/'.join(handle.split('/')[:2])}"
    text = ""
    with _discreet():
        try:
            return pathlib.Path(kagglehub.model_download(handle))
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise errors.HarnessError(_refusal(handle, page, status)) from None
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = type(error).__name__
        except exceptions.DataCorruptionError:
            text = f"the download of {handle} is damaged: run again, it is downloaded anew"
        except OSError as error:
            where = os.environ.get("KAGGLEHUB_CACHE", "kagglehub's cache")
            text = (
                f"{handle} cannot be stored in {where} ({error.strerror or type(error).__name__}): "
                "make room, or set KAGGLEHUB_CACHE to a folder that has it"
            )
        except ValueError:
            # Its text could quote the file.
            text = f"{handle} cannot be downloaded: kaggle.json is not what Kaggle gave; check it"
        except Exception as error:
            text = f"{handle} cannot be downloaded ({type(error).__name__}): see {page}"
    if reason:
        return _without_kaggle(handle, held, reason, report)
    raise errors.HarnessError(text)


def _without_kaggle(
    handle: str, held: pathlib.Path | None, reason: str, report: Callable[[str], None]
) -> pathlib.Path:
    """Return the version that was downloaded earlier, or refuse."""
    if held is None:
        raise downloads.no_kaggle(handle, reason)
    report(
        f"Kaggle cannot be reached ({reason}): version {held.name} of {handle}, downloaded "
        "earlier, is used"
    )
    return held


def _refusal(handle: str, page: str, status: int) -> str:
    from kagglehub import config

    if status in (401, 403) and config.get_kaggle_credentials() is None:
        return (
            f"{handle} needs Kaggle credentials and there are none: set KAGGLE_API_TOKEN, or "
            "KAGGLE_USERNAME and KAGGLE_KEY, or put kaggle.json into ~/.kaggle"
        )
    if status == 401:
        return "Kaggle does not take the credentials: make a new token in Kaggle's settings"
    if status == 403:
        return f"the licence of {handle} is not accepted by this account: accept it at {page}"
    if status == 404:
        return f"Kaggle has no model {handle}: see {page} for its variations"
    return f"{handle} cannot be downloaded, Kaggle answers with status {status}: try again later"


@contextlib.contextmanager
def _discreet() -> Iterator[None]:
    """Keep what Kaggle's packages print to themselves: requests hold credentials."""
    loggers = [logging.getLogger(name) for name in ("kagglehub", "kagglesdk", "urllib3")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if not sys.stderr.isatty():  # bars are for a terminal
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
