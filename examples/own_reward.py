"""Train with a reward function of your own.

Run `python examples/own_reward.py runs/brevity`; further arguments change the
recipe, as in `lora.rank=4`. The function is tried on a batch of made-up
completions before anything is trained; then PPO learns to write short answers,
and evaluation scores by the same function.
"""

import pathlib
import sys

from harness import recipe as recipe_lib
from harness import training


def brevity(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """Return a score in 0..1 for each of B completions, 1 for an empty one.

    Args:
      prompts: The B prompts.
      completions: The B completions.
      **columns: The columns of the data set, B values each: `question`,
        `answer`, and `mode` (`train` or `eval`).

    Returns:
      One float for each completion.
    """
    return [1 / (1 + len(text)) for text in completions]


def main(out: pathlib.Path, *assignments: str) -> training.Result:
    """Run the tiny recipe with `brevity`.

    Args:
      out: Folder for everything that the run writes; new or empty.
      *assignments: Further changes of the recipe, `group.field=value`.

    Returns:
      What the run found; `result.json` in the folder holds it.
    """
    recipe = recipe_lib.load(
        "tiny",
        # The name under which a run imports the function; this folder is on its path.
        assignments=["reward.function=own_reward:brevity", "data.num_batches=20", *assignments],
    )
    return training.run(recipe, out)


if __name__ == "__main__":
    result = main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
    for number, step in enumerate(result.steps, start=1):
        print(f"step {number}: reward {step['reward_mean']:.3f}")
