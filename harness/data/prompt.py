"""The prompt put around a question, and the number taken out of an answer."""

import re

from harness.recipe import Data

_FINAL_NUMBER = re.compile(r"#### (-?[.,]*[0-9][0-9.,]*)")


def format_prompt(data: Data, question: str) -> str:
    """Fills the recipe's template.

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
    """Takes the final number out of an answer in GSM8K's form.

    Args:
      answer: Text with `#### ` before the final number.

    Returns:
      The first such number as written, its thousands separators dropped.

    Raises:
      ValueError: No number follows a `#### `.
    """
    found = _FINAL_NUMBER.search(answer)
    if found is None:
        raise ValueError(f"no number after '#### ' in the answer {answer[-80:]!r}")
    return found[1].replace(",", "")
