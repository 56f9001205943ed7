"""What a recipe would download, looked at before anything large is loaded."""

import contextlib
import os
import pathlib
import re

from harness import cache, errors, network
from harness import recipe as recipe_lib

KAGGLE = "kaggle:"
# The file whose host the builder of TensorFlow Datasets downloads GSM8K from.
GSM8K_URL = (
    "https://raw.githubusercontent.com/openai/grade-school-math/master/"
    "grade_school_math/data/test.jsonl"
)
# There kagglehub reads models from what the notebook mounts, not from Kaggle's API.
_NOTEBOOKS = ("KAGGLE_KERNEL_RUN_TYPE", "TBE_RUNTIME_ADDR")


def check(recipe: recipe_lib.Recipe) -> None:
    """Refuse a recipe whose data or weights would be downloaded from where nothing answers.

    It takes a second or two and loads neither JAX nor a tokenizer. What is
    already on this machine needs no network.

    Args:
      recipe: What is to run.

    Raises:
      HarnessError: A download that the recipe needs cannot be reached.
    """
    checkpoint = recipe.model.checkpoint or ""
    if recipe.model.weights == "checkpoint" and not checkpoint:
        return  # it is refused for that, whatever the network
    kind, _, folder = recipe.data.source.partition(":")
    if kind == "tfds" and "://" not in folder:
        searched = pathlib.Path(folder).expanduser() if folder else gsm8k_folder()
        if not has_gsm8k(searched):
            require_gsm8k_host(str(searched))
    if recipe.model.weights == "checkpoint" and checkpoint.startswith(KAGGLE):
        handle = checkpoint.removeprefix(KAGGLE)
        if cached_model(handle) is None and (reason := kaggle_unreachable()):
            raise no_kaggle(handle, reason)


def gsm8k_folder() -> pathlib.Path:
    """Return the folder that `data.source` `tfds` is downloaded into."""
    return cache.cache_root() / "gsm8k" / "tfds"


def has_gsm8k(folder: pathlib.Path) -> bool:
    """Return whether a TFDS data folder holds GSM8K whole."""
    # TFDS gives a folder the name of its version once all of it is written.
    return any(folder.glob("gsm8k/[0-9]*/dataset_info.json"))


def require_gsm8k_host(folder: str, url: str = GSM8K_URL) -> None:
    """Refuse to begin a download of GSM8K that cannot be reached.

    Args:
      folder: Where it was looked for, for the message.
      url: A file of the download.

    Raises:
      HarnessError: The host does not answer.
    """
    reason = network.unreachable(url)
    if reason:
        raise no_gsm8k(folder, reason)


def no_gsm8k(folder: str, reason: str) -> errors.HarnessError:
    """Return the error of a GSM8K that is neither here nor to be had."""
    return errors.HarnessError(
        f"GSM8K is not in {folder} and cannot be downloaded ({reason}): set data.source to "
        "jsonl:DIR with train.jsonl and test.jsonl, or to the tfds:DIR that holds it"
    )


def kaggle_unreachable() -> str | None:
    """Return why Kaggle's API cannot be reached, or `None` if it can or is not asked."""
    if any(name in os.environ for name in _NOTEBOOKS):
        return None
    from kagglesdk import kaggle_env

    try:
        endpoint = kaggle_env.get_endpoint(kaggle_env.get_env())
    except Exception:  # a value of KAGGLE_API_ENVIRONMENT that kagglehub then refuses
        return None
    return network.unreachable(endpoint)


def no_kaggle(handle: str, reason: str) -> errors.HarnessError:
    """Return the error of a model that cannot be downloaded for want of a network."""
    return errors.HarnessError(
        f"{handle} cannot be downloaded, Kaggle cannot be reached ({reason}): check the network, "
        "or download it elsewhere and give its folder by --checkpoint DIR"
    )


def cached_model(handle: str) -> pathlib.Path | None:
    """Return the folder in which kagglehub holds a model whole, or `None`.

    Args:
      handle: `owner/model/framework/variation`, with a version or without; of
        one without, the newest version that was downloaded.

    Raises:
      HarnessError: It is no handle.
    """
    from kagglehub import cache as hub_cache
    from kagglehub import handle as handles

    try:
        model = handles.parse_model_handle(handle)
    except ValueError:
        raise errors.HarnessError(
            f"{handle} cannot be downloaded: the handle is not owner/model/framework/variation, "
            "with a version after it if wished"
        ) from None
    held = hub_cache.Cache()
    versions = [model.version] if model.version else []
    if not model.is_versioned():
        above = pathlib.Path(held.get_path(model.with_version(1))).parent
        with contextlib.suppress(OSError):
            names = (child.name for child in above.iterdir())
            versions = sorted(int(name) for name in names if re.fullmatch(r"\d+", name))
    for version in reversed(versions):
        found = held.load_from_cache(model.with_version(version))
        if found:
            return pathlib.Path(found)
    return None
