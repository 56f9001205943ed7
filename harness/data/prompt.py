"""The prompt put around a question, and the number taken out of an answer."""

import re

from harness.recipe import Data

_TAG = "####"
_NUMBER = re.compile(r"-?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")


def format_prompt(data: Data, question: str) -> str:
    """Fill the recipe's template.

    Only the fields `{question}` and `{system_prompt}` are filled: braces in a
    question, or elsewhere in the template, are text.

    Args:
      data: Template and system prompt.
      question: The question alone.

    Returns:
      The text a model is given.
    """
    fields = {"{question}": question, "{system_prompt}": data.system_prompt}
    return re.sub("|".join(map(re.escape, fields)), lambda found: fields[found[0]], data.prompt)


def extract_answer(answer: str) -> str:
    """Return the final number of an answer in GSM8K's form.

    The last `####` counts, as it does when a completion is scored, and the whole
    rest of its line: a space, then one number. What the reward would read
    otherwise than a person does, such as `1/2`, `2:30`, `1e6`, `12-15` or `10.`,
    is refused, not cut short.

    Args:
      answer: Text with `#### ` before the final number.

    Returns:
      The number as written, its thousands separators dropped.

    Raises:
      ValueError: There is no `####`, or no single number follows the last one.
    """
    _, tag, rest = answer.rpartition(_TAG)
    line = rest.split("\n", 1)[0].rstrip()
    number = line.removeprefix(" ")
    if not tag:
        raise ValueError(f"no number after '#### ' in the answer {answer[-80:]!r}")
    if number == line or not _NUMBER.fullmatch(number):
        raise ValueError(
            f"no number after '#### ': the last '####' is followed by {line[:80]!r}, which is not "
            "a space and one number such as 72, -3, 2.5 or 1,234"
        )
    return number.replace(",", "")
