"""Train on problems of your own, written as JSON lines.

Run `python examples/own_data.py runs/subtraction`; further arguments change the
recipe, as in `lora.rank=4`. Each line of the files is a question and an answer
that ends in `#### NUMBER`; `python -m harness run --data jsonl:DIR` does the
same with files of your own.
"""

import itertools
import json
import pathlib
import sys

from harness import recipe as recipe_lib
from harness import training


def write_problems(folder: pathlib.Path) -> None:
    """Write `train.jsonl` and `test.jsonl`: differences of two small numbers.

    Args:
      folder: Where they go; made if it does not exist.
    """
    pairs = [pair for pair in itertools.product(range(16), repeat=2) if pair[0] >= pair[1]]
    lines = [
        json.dumps({"question": f"Ann has {a} and eats {b}.", "answer": f"#### {a - b}"})
        for a, b in pairs
    ]
    folder.mkdir(parents=True, exist_ok=True)
    test = lines[::10]  # these are not trained on
    train = [each for each in lines if each not in test]
    for name, chosen in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")


def main(out: pathlib.Path, *assignments: str) -> training.Result:
    """Write the problems and train on them.

    Args:
      out: Folder; the problems go to `problems/`, the run to `run/`.
      *assignments: Further changes of the recipe, `group.field=value`.

    Returns:
      What the run found; `run/result.json` holds it.
    """
    write_problems(out / "problems")
    recipe = recipe_lib.load(
        "tiny", source=f"jsonl:{out / 'problems'}", assignments=["data.num_batches=4", *assignments]
    )
    return training.run(recipe, out / "run")


if __name__ == "__main__":
    result = main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
    print(f"accuracy {result.baseline.accuracy:.3f}, then {result.trained.accuracy:.3f}")
