"""Find the best setting that fits, with as few questions to the compiler as can be.

Everything here is a function of the callable that answers questions, so that it
is tested with machines made of arithmetic. The compiler is the only judge of
what fits; arithmetic and straight lines through compiled sizes decide in which
order settings are looked at, and which need no look.

Settings are tried from the best one on. One is passed over without a question

- if what lives on the chip at any rate (`Candidate.state_bytes`) is more than
  there is: that is certain;
- if a smaller size of one of its programs does not fit: more sequences are
  taken to need more memory;
- if the line through what is known of a program, or at first a guess by
  arithmetic, leads far past what there is. Such a setting is looked at after
  all if nothing else fits.

The second and the third are predictions. What was predicted is reported as
such, and `certain=True` asks about it too wherever it would be better.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal

# A prediction this far past the limit is believed until nothing else is left.
_SLACK = 1.1


@dataclasses.dataclass(frozen=True)
class Question:
    """A program at a size.

    Attributes:
      program: Its name.
      sequences: Sequences in one call.
      family: All else that determines the program; within a family bytes are
        taken to grow with the sequences.
      beside_bytes: Bytes of what lives on the chip meanwhile and is not an
        argument of the program.
      argument_bytes: Bytes that the program is given whatever its size, from
        which a line begins.
      guess_bytes: A guess by arithmetic, used until a size of the family is
        known; None if there is none.
      subject: What is asked about.
    """

    program: str
    sequences: int
    family: Hashable
    beside_bytes: int
    argument_bytes: int = 0
    guess_bytes: int | None = None
    subject: Any = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the compiler reports of a question.

    Attributes:
      accepted: Whether there is a program.
      peak_bytes: What it takes, or would take; None if that is not known.
    """

    accepted: bool
    peak_bytes: int | None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting of everything that is searched.

    Attributes:
      name: A name that no other candidate has.
      cost: Compared as a tuple; the smaller, the better.
      state_bytes: Bytes that live on the chip in every phase.
      questions: What decides whether it fits, the likeliest to fail first.
      subject: What is asked about.
    """

    name: str
    cost: tuple[float, ...]
    state_bytes: int
    questions: tuple[Question, ...]
    subject: Any = dataclasses.field(default=None, compare=False)


Source = Literal["compiled", "state", "line"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What was found out about a candidate.

    Attributes:
      candidate: Which.
      fits: Whether it fits.
      source: `compiled` if the compiler was asked, `state` if what lives on the
        chip is too much already, `line` if it was predicted.
      program: The program that does not fit, or that takes most.
      peak_bytes: Bytes in that phase, compiled, at least, or predicted; None if
        the compiler refused without a figure.
    """

    candidate: Candidate
    fits: bool
    source: Source
    program: str | None
    peak_bytes: int | None


@dataclasses.dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
      chosen: The best candidate that fits; None if none does.
      room_bytes: The room within which it fits, or the largest that was tried.
      judged: What is known of every candidate that would have been better, and
        of the chosen one, in the order of cost.
      nearest: If none fits, the one that comes nearest.
      asked: Questions that were put, each once, with their answers.
    """

    chosen: Judgement | None
    room_bytes: int
    judged: tuple[Judgement, ...]
    nearest: Judgement | None
    asked: tuple[tuple[Question, Answer], ...]


def find(
    candidates: Iterable[Candidate],
    ask: Callable[[Question], Answer],
    *,
    rooms: Sequence[int],
    certain: bool = False,
    progress: Callable[[Judgement], None] = lambda judgement: None,
) -> Found:
    """Find the best candidate that fits.

    Args:
      candidates: In any order; at least one.
      ask: Answers a question; no question is put twice.
      rooms: Bytes that may be taken, most demanding first: the second is tried
        only if nothing fits in the first.
      certain: Whether to ask about candidates, too, that are predicted not to
        fit and would be better than what was found.
      progress: Called with each judgement as it is made.

    Returns:
      What was found. If `certain`, or if bytes grow with the sequences along
      lines that bend by less than a tenth and guesses are as good, it is the
      best of all that fit.
    """
    search = _Search(sorted(candidates, key=_order), ask, progress)
    for room in rooms:
        chosen = search.within(room, certain)
        if chosen is not None or room == rooms[-1]:
            return search.found(chosen, room)
    raise ValueError("rooms is empty")


class _Search:
    def __init__(
        self,
        ordered: Sequence[Candidate],
        ask: Callable[[Question], Answer],
        progress: Callable[[Judgement], None],
    ):
        self._ordered, self._ask, self._progress = ordered, ask, progress
        self._known: dict[tuple[str, Hashable, int], Answer] = {}
        self._asked: list[tuple[Question, Answer]] = []
        self._guessed: dict[tuple[str, Hashable, int], int | None] = {}
        self._judged: dict[str, Judgement] = {}

    def within(self, room: int, certain: bool) -> Judgement | None:
        """Look for the best candidate within a room."""
        self._judged = {}
        ordered, best = list(self._ordered), None
        while True:
            # The first that fits is the best of those that are not put off.
            first, later = self._first(ordered, room, certain)
            if first is not None:
                return first
            # What else is asked about is the surest, which tells more of its family.
            open_ = [each for each in later if self._without_asking(each, room, far=False) is None]
            if best is not None or not open_:
                return best
            judged = self._by_asking(min(open_, key=self._promise), room)
            self._note(judged)
            if judged.fits:
                best = judged
                ordered = [each for each in ordered if _order(each) < _order(judged.candidate)]

    def _first(
        self, ordered: Sequence[Candidate], room: int, certain: bool
    ) -> tuple[Judgement | None, list[Candidate]]:
        """Find the first that fits, and what is put off on the way."""
        later = []
        for candidate in ordered:
            judged = self._without_asking(candidate, room, far=True)
            if judged is not None and judged.source == "line" and not certain:
                later.append(candidate)
            elif judged is None or judged.source == "line":
                judged = self._by_asking(candidate, room)
            self._note(judged)
            if judged.fits:
                return judged, later
        return None, later

    def _promise(self, candidate: Candidate) -> tuple[bool, int, tuple[float, ...]]:
        """Order what was predicted not to fit, the surest first."""
        size = self._judged[candidate.name].peak_bytes
        return size is None, size or 0, candidate.cost

    def found(self, chosen: Judgement | None, room: int) -> Found:
        last = None if chosen is None else _order(chosen.candidate)
        judged = [
            self._judged[each.name]
            for each in self._ordered
            if each.name in self._judged and (last is None or _order(each) <= last)
        ]
        nearest = None
        if chosen is None:
            nearest = min(
                judged,
                key=lambda each: (
                    # What lives on the chip is the least that a setting takes.
                    ("compiled", "state", "line").index(each.source),
                    each.peak_bytes is None,
                    each.peak_bytes or 0,
                ),
            )
        return Found(chosen, room, tuple(judged), nearest, tuple(self._asked))

    def _note(self, judged: Judgement) -> None:
        if self._judged.get(judged.candidate.name) != judged:
            self._judged[judged.candidate.name] = judged
            self._progress(judged)

    def _without_asking(self, candidate: Candidate, room: int, *, far: bool) -> Judgement | None:
        """Judge by what is known already; `far` also by lines that lead far past the room."""
        if candidate.state_bytes > room:
            return Judgement(candidate, False, "state", None, candidate.state_bytes)
        predicted = None
        for question in candidate.questions:
            answer = self._known.get(_key(question))
            if answer is not None:
                if not _fits(answer, question, room):
                    return _judgement(candidate, question, answer, False)
                continue
            smaller = self._largest_below(question)
            if smaller is not None and not _fits(smaller, question, room):
                predicted = predicted or (question, smaller.peak_bytes)
            guess = self._on_the_line(question) if far else None
            if guess is not None and guess + question.beside_bytes > room * _SLACK:
                predicted = predicted or (question, guess)
        if predicted is None:
            return None
        question, size = predicted
        peak = None if size is None else size + question.beside_bytes
        return Judgement(candidate, False, "line", question.program, peak)

    def _by_asking(self, candidate: Candidate, room: int) -> Judgement:
        worst: Judgement | None = None
        for question in candidate.questions:
            key = _key(question)
            if key not in self._known:
                self._known[key] = self._ask(question)
                self._guessed[key] = question.guess_bytes
                self._asked.append((question, self._known[key]))
            answer = self._known[key]
            judged = _judgement(candidate, question, answer, _fits(answer, question, room))
            if not judged.fits:
                return judged
            if worst is None or (judged.peak_bytes or 0) > (worst.peak_bytes or 0):
                worst = judged
        if worst is None:
            return Judgement(candidate, True, "state", None, candidate.state_bytes)
        return worst

    def _relatives(self, question: Question) -> dict[int, Answer]:
        """What is known of other sizes of a program."""
        return {
            sequences: answer
            for (program, family, sequences), answer in self._known.items()
            if program == question.program and family == question.family
        }

    def _largest_below(self, question: Question) -> Answer | None:
        """What is known of the largest smaller size."""
        relatives = self._relatives(question)
        sizes = [sequences for sequences in relatives if sequences < question.sequences]
        return relatives[max(sizes)] if sizes else None

    def _on_the_line(self, question: Question) -> int | None:
        """Bytes on the line through the two nearest known sizes; before any is known, a guess.

        A line that begins at the arguments alone is no guide beyond the one size
        that is known: there a guess is held to what that one takes.
        """
        points = {
            sequences: answer.peak_bytes
            for sequences, answer in self._relatives(question).items()
            if answer.peak_bytes is not None
        }
        if not points:
            return question.guess_bytes
        if len(points) == 1:
            ((sequences, size),) = points.items()
            if question.sequences > sequences:
                was = self._guessed.get((question.program, question.family, sequences))
                if was is None or question.guess_bytes is None:
                    return None
                return size + question.guess_bytes - was
            points[0] = question.argument_bytes
        return line(points, question.sequences)


def line(points: dict[int, int], sequences: int) -> int:
    """Read a size off the line through the two known ones that are nearest.

    Args:
      points: Bytes by sequences; at least two.
      sequences: The size in question.

    Returns:
      Bytes.
    """
    a, b = sorted(sorted(points, key=lambda each: (abs(each - sequences), each))[:2])
    return round(points[a] + (points[b] - points[a]) * (sequences - a) / (b - a))


def _order(candidate: Candidate) -> tuple[tuple[float, ...], str]:
    return candidate.cost, candidate.name


def _key(question: Question) -> tuple[str, Hashable, int]:
    return question.program, question.family, question.sequences


def _fits(answer: Answer, question: Question, room: int) -> bool:
    return (
        answer.accepted
        and answer.peak_bytes is not None
        and answer.peak_bytes + question.beside_bytes <= room
    )


def _judgement(candidate: Candidate, question: Question, answer: Answer, fits: bool) -> Judgement:
    peak = None if answer.peak_bytes is None else answer.peak_bytes + question.beside_bytes
    return Judgement(candidate, fits, "compiled", question.program, peak)
