"""Weights from Kaggle: downloaded once, kept by kagglehub, each failure in a line of its own."""

import contextlib
import io
import logging
import os
import pathlib
import sys
from collections.abc import Iterator

from harness import errors
from harness import recipe as recipe_lib

PREFIX = "kaggle:"
GEMMA3_1B = f"{PREFIX}google/gemma-3/flax/gemma3-1b-it"


def local(recipe: recipe_lib.Recipe) -> recipe_lib.Recipe:
    """Gives the recipe with its weights where they can be read.

    Args:
      recipe: Any; where `model.checkpoint` is `kaggle:` and a handle, such as
        `GEMMA3_1B`, the model is downloaded if kagglehub does not hold it.

    Returns:
      The recipe with a folder in `model.checkpoint`; any other as it is.

    Raises:
      HarnessError: It cannot be downloaded.
    """
    checkpoint = recipe.model.checkpoint
    if recipe.model.weights != "checkpoint" or not (checkpoint or "").startswith(PREFIX):
        return recipe
    folder = download(str(checkpoint).removeprefix(PREFIX))
    return recipe_lib.replace(recipe, f'model.checkpoint="{folder}"')


def download(handle: str) -> pathlib.Path:
    """Downloads a model, or finds it where kagglehub keeps it.

    Credentials are kagglehub's: `KAGGLE_API_TOKEN`, `KAGGLE_USERNAME` with
    `KAGGLE_KEY`, or the files in `~/.kaggle`. They are in no message.

    Args:
      handle: `owner/model/framework/variation`, a version after it if wished.

    Returns:
      The folder.

    Raises:
      HarnessError: No credentials, or refused ones; a licence that is not
        accepted; no such model; no network; no room; a damaged download.
    """
    import kagglehub
    import requests
    from kagglehub import exceptions

    page = f"kaggle.com/models/{'/'.join(handle.split('/')[:2])}"
    with _discreet():
        try:
            return pathlib.Path(kagglehub.model_download(handle))
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise errors.HarnessError(_refusal(handle, page, status)) from None
        except (requests.ConnectionError, requests.Timeout):
            said = (
                f"{handle} cannot be downloaded, Kaggle cannot be reached: check the network, or "
                "download it elsewhere and give its folder by --checkpoint DIR"
            )
        except exceptions.DataCorruptionError:
            said = f"the download of {handle} is damaged: run again, it is downloaded anew"
        except OSError as error:
            where = os.environ.get("KAGGLEHUB_CACHE", "kagglehub's cache")
            said = (
                f"{handle} cannot be kept in {where} ({error.strerror or type(error).__name__}): "
                "make room, or set KAGGLEHUB_CACHE to a folder that has it"
            )
        except ValueError:
            # Of a handle, or of kaggle.json; its text could quote the file.
            said = (
                f"{handle} cannot be downloaded: the handle is not owner/model/framework/"
                "variation, or kaggle.json is not what Kaggle gave; check both"
            )
        except Exception as error:
            said = f"{handle} cannot be downloaded ({type(error).__name__}): see {page}"
    raise errors.HarnessError(said)


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
    """Keeps what Kaggle's packages print to themselves: requests hold credentials."""
    loggers = [logging.getLogger(name) for name in ("kagglehub", "kagglesdk", "urllib3")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if not sys.stderr.isatty():  # bars are for who watches
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
