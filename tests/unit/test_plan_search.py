"""The search for settings: held to brute force on machines made of arithmetic."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.plan import search

SIZES = (1, 2, 4, 8, 16)


@dataclasses.dataclass
class Machine:
    """Says what two programs take, and remembers what it was asked."""

    size: Callable[[search.Question], int]
    capacity: int = 10**9
    reports: bool = True
    asked: list[search.Question] = dataclasses.field(default_factory=list)

    def __call__(self, question: search.Question) -> search.Answer:
        assert question not in self.asked
        self.asked.append(question)
        size = self.size(question)
        accepted = size <= self.capacity
        return search.Answer(accepted, size if accepted or self.reports else None)


def space(cost: Callable[[int, str, int], float], *, state: int = 100) -> list[search.Candidate]:
    """Train sizes with and without rematerialisation, and rollout sizes."""
    found = []
    for train, remat, rollout in itertools.product(SIZES, ("no", "yes"), SIZES):
        questions = (
            search.Question("step", train, remat, beside_bytes=30, argument_bytes=70),
            search.Question("rollout", rollout, None, beside_bytes=60, argument_bytes=40),
        )
        name = f"train {train}, remat {remat}, rollout {rollout}"
        found.append(
            search.Candidate(name, (cost(train, remat, rollout),), state, questions, questions)
        )
    return found


def fits(candidate: search.Candidate, machine: Machine, room: int) -> bool:
    return candidate.state_bytes <= room and all(
        machine.size(each) <= machine.capacity and machine.size(each) + each.beside_bytes <= room
        for each in candidate.questions
    )


def brute(candidates: list[search.Candidate], machine: Machine, room: int) -> str | None:
    able = [each for each in candidates if fits(each, machine, room)]
    return min(able, key=lambda each: (each.cost, each.name)).name if able else None


def name_of(found: search.Found) -> str | None:
    return None if found.chosen is None else found.chosen.candidate.name


def seconds(train: int, remat: str, rollout: int) -> float:
    return 1 / train + (0.1 if remat == "yes" else 0) + 10 / rollout


@given(
    room=st.integers(50, 3000),
    slopes=st.tuples(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200)),
    fixed=st.integers(0, 60),
    order=st.randoms(use_true_random=False),
    reports=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_on_straight_lines_the_best_is_found(room, slopes, fixed, order, reports):
    def size(question: search.Question) -> int:
        slope = slopes[("no", "yes", None).index(question.family)]  # type: ignore[arg-type]
        return question.argument_bytes + fixed + slope * question.sequences

    candidates = space(seconds)
    order.shuffle(candidates)
    machine = Machine(size, capacity=2500, reports=reports)
    found = search.find(candidates, machine, rooms=[room])
    assert name_of(found) == brute(candidates, machine, room)
    assert [question for question, _ in found.asked] == machine.asked
    # Each program at each size of each family is asked about at most once.
    assert len(machine.asked) <= 3 * len(SIZES)


@given(
    room=st.integers(50, 3000),
    sizes=st.lists(st.integers(1, 3000), min_size=15, max_size=15),
    costs=st.lists(st.integers(0, 5), min_size=50, max_size=50),
    certain=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_where_nothing_is_a_line_certainty_can_be_asked_for(room, sizes, costs, certain):
    table = dict(zip(itertools.product(("no", "yes", None), SIZES), sizes, strict=True))
    machine = Machine(lambda q: table[q.family, q.sequences], capacity=2500)  # type: ignore[index]
    remaining = iter(costs)
    candidates = space(lambda *of: next(remaining))
    found = search.find(candidates, machine, rooms=[room], certain=certain)
    best = brute(candidates, machine, room)
    if certain:
        assert name_of(found) == best
    if found.chosen is None:
        # Without certainty a small size that does not fit rules out larger ones.
        assert found.nearest is not None
        return
    assert fits(found.chosen.candidate, machine, room)
    passed_over = {
        each.candidate.name for each in found.judged if not each.fits and each.source == "line"
    }
    # Nothing better that fits is passed over in silence.
    better = {
        each.name
        for each in candidates
        if (each.cost, each.name) < (found.chosen.candidate.cost, found.chosen.candidate.name)
        and fits(each, machine, room)
    }
    assert better <= passed_over


def test_what_lives_on_the_chip_rules_out_without_a_question():
    machine = Machine(lambda question: 10)
    found = search.find(space(seconds, state=500), machine, rooms=[499])
    assert (found.chosen, machine.asked) == (None, [])
    assert found.nearest is not None
    assert (found.nearest.source, found.nearest.peak_bytes) == ("state", 500)


def test_nothing_fits_names_the_nearest_and_how_far_it_is():
    machine = Machine(lambda q: q.argument_bytes + 100 * q.sequences + (q.family == "no") * 7)
    found = search.find(space(seconds), machine, rooms=[180, 190])
    assert found.chosen is None
    assert found.room_bytes == 190
    assert found.nearest is not None
    # One sequence with rematerialisation: 70 + 100, beside 30.
    assert (found.nearest.program, found.nearest.peak_bytes) == ("step", 200)
    assert found.nearest.source == "compiled"
    # One refusal of the smallest size speaks for the larger ones.
    assert len(machine.asked) < 2 * len(SIZES)


def test_a_refusal_without_a_figure_is_no_figure():
    machine = Machine(lambda question: 10**6, capacity=10, reports=False)
    found = search.find(space(seconds), machine, rooms=[10**7])
    assert found.chosen is None
    assert found.nearest is not None
    assert found.nearest.peak_bytes is None


def test_the_roomier_limit_is_preferred_and_the_tighter_one_taken_if_need_be():
    def size(question: search.Question) -> int:
        return question.argument_bytes + 10 * question.sequences

    roomy = search.find(space(seconds), Machine(size), rooms=[200, 300])
    assert roomy.room_bytes == 200
    assert roomy.chosen is not None
    assert roomy.chosen.candidate.name == "train 8, remat no, rollout 8"
    machine = Machine(size)
    tight = search.find(space(seconds), machine, rooms=[105, 300])
    assert tight.room_bytes == 300
    assert tight.chosen is not None
    assert tight.chosen.candidate.name == "train 16, remat no, rollout 16"


def test_what_a_line_leads_far_past_is_put_off_and_found_if_nothing_else_fits():
    # One sequence takes 160 because of something that no other size needs.
    def size(question: search.Question) -> int:
        if question.program == "rollout":
            return 50
        return 160 if question.sequences == 1 else 75

    candidates = [each for each in space(seconds) if "remat no" in each.name]
    # The largest first, so that nothing is put off, and then the smallest first.
    assert name_of(search.find(candidates, Machine(size), rooms=[120])) is not None
    upside_down = [dataclasses.replace(each, cost=(-each.cost[0],)) for each in candidates]
    found = search.find(upside_down, Machine(size), rooms=[120], certain=True)
    assert name_of(found) == brute(upside_down, Machine(size), 120)


@pytest.mark.parametrize(("sequences", "size"), [(4, 1400), (16, 2600), (1, 1100)])
def test_a_line_goes_through_the_two_nearest_sizes(sequences, size):
    assert search.line({0: 1000, 2: 1200, 8: 1800}, sequences) == size


def test_a_search_goes_on_from_what_is_known():
    """The store answers what was asked before; the search asks the same, and ends the same."""
    machine = Machine(lambda q: q.argument_bytes + 11 * q.sequences)
    first = search.find(space(seconds), machine, rooms=[230])
    again = Machine(machine.size)
    second = search.find(space(seconds), again, rooms=[230])
    assert first == second
    assert again.asked == machine.asked


def test_progress_is_reported_as_it_is_made():
    seen: list[search.Judgement] = []
    machine = Machine(lambda q: q.argument_bytes + 11 * q.sequences)
    found = search.find(space(seconds), machine, rooms=[230], progress=seen.append)
    assert seen[-1] == found.chosen
    assert {each.candidate.name for each in found.judged} == {each.candidate.name for each in seen}
