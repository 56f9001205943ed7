"""One word problem, whatever source it comes from."""

from typing import NamedTuple


class Problem(NamedTuple):
    """A question and its worked answer.

    Attributes:
      question: The question alone, without template.
      answer: The solution in GSM8K's form: its steps, a newline, `#### ` and
        the number.
    """

    question: str
    answer: str
