"""Checkpoints: a training that was cut goes on as if it had not been."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness import errors, upstream
from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties import schedule
from harness.checks.property import EXACT, Comparison, Observed, Property
from harness.upstream.instrument import dry_run
from harness.upstream.instrument import trace as trace_lib

_ROLES = ("actor", "critic")
# Where a state is looked at: after the first batch of the real run, from a
# checkpoint that was made in passing, and after the last step of a dry
# one, from the checkpoint that is made when a training ends.
_PASSING, _LAST = "in passing", "at the end"


def _flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Lay arrays end to end, in the order of their names; float64 holds every value."""
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in sorted(arrays)])


def _figures(
    where: str, states: Mapping[str, dry_run.State], global_step: int
) -> dict[str, np.ndarray]:
    found = {f"global step {where}": np.array(global_step)}
    for role, state in states.items():
        found |= {
            f"{role}'s weights {where}": _flat(state.weights),
            f"{role}'s moments and counts {where}": _flat(state.moments),
            f"{role}'s optimizer steps {where}": np.array(state.train_steps),
            f"{role}'s gradients {where}": np.array(state.iter_steps),
        }
    return found


def _states_of(trace: trace_lib.Trace, step: int, count: int) -> dict[str, dry_run.State]:
    """Return what a run was after an optimizer step of `count` micro-batches."""
    found = {}
    for role in _ROLES:
        updates = [each for each in trace.updates if each.role == role]
        if step:
            last = updates[step * count - 1]
            weights, moments = last.after, last.moments_after
        else:
            weights, moments = updates[0].before, updates[0].moments_before
        found[role] = dry_run.State(weights, moments, step, step * count)
    return found


def _observe_restored(context: Context) -> Observed:
    resumed = context.resumed
    count = recipe_lib.summarize(context.recipe).gradient_accumulation
    cut, again = context.run_dry(
        *schedule.RESUMED.assignments,
        batches=schedule.RESUMED.batches,
        stop=schedule.RESUMED_AFTER,
    )
    return {
        "got": _figures(_PASSING, resumed.states, resumed.global_step)
        | _figures(_LAST, again.began, again.first_global_step),
        "want": _figures(_PASSING, _states_of(context.trace, resumed.step, count), 1)
        | _figures(_LAST, cut.ended, schedule.RESUMED_AFTER),
        "fresh": _figures(_PASSING, _states_of(context.trace, 0, count), 0)
        | _figures(_LAST, cut.began, 0),
        "next": _figures(_PASSING, _states_of(context.trace, resumed.step + 1, count), 2)
        | _figures(_LAST, cut.began, 0),
    }


def _compare_restored(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    want = dict(observed["want"])
    if "last-checkpoint-no-metadata" in known:
        want[f"global step {_LAST}"] = np.array(0)
    for name in want:
        yield Comparison(name, observed["got"][name], want[name])


def _take(source: str, *words: str) -> Callable[[Observed], Observed]:
    """Put figures of another moment, those whose name has one of the words."""

    def taken(observed: Observed) -> Observed:
        other = {
            name: figures
            for name, figures in observed[source].items()
            if any(word in name for word in words)
        }
        return {**observed, "got": {**observed["got"], **other}}

    return taken


def _observe_resumed(context: Context) -> Observed:
    return {"recipe": context.recipe, "whole": context.trace, "resumed": context.resumed}


def _compare_resumed(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    summary = recipe_lib.summarize(observed["recipe"])
    epochs = observed["recipe"].ppo.num_epochs
    whole, resumed = observed["whole"], observed["resumed"]
    trace, ended = resumed.trace, resumed.ended
    per_batch = summary.optimizer_steps_per_batch
    done = resumed.step // per_batch
    first = done * epochs if "resume-skips-data" in known else done
    steps = resumed.step + (summary.global_steps - first) * per_batch
    states = _states_of(whole, resumed.step, summary.gradient_accumulation)
    for role in _ROLES:
        updates = [each for each in trace.updates if each.role == role]
        for name, got, want in (
            ("weights", updates[0].before, states[role].weights),
            ("moments", updates[0].moments_before, states[role].moments),
        ):
            yield Comparison(f"the {role}'s {name} as it goes on", _flat(got), _flat(want))
        yield Comparison(f"the {role}'s optimizer steps", ended[role].train_steps, steps)
        yield Comparison(
            f"the {role}'s optimizer steps after each gradient",
            [each.train_steps for each in updates],
            [
                resumed.step + (index + 1) // summary.gradient_accumulation
                for index in range((steps - resumed.step) * summary.gradient_accumulation)
            ],
        )
    drawn = [group for group in trace.groups if not group.evaluation]
    wanted = [group for group in whole.groups if not group.evaluation]
    per = len(wanted) // summary.global_steps
    for name in ("prompts", "question", "answer"):
        yield Comparison(
            f"{name} that are drawn",
            np.concatenate([group.columns[name] for group in drawn]),
            np.concatenate([group.columns[name] for group in wanted[first * per :]]),
        )
    yield Comparison(
        "global steps at the end",
        trace.global_steps[-1],
        done + summary.global_steps - first,
    )
    # Otherwise the two runs draw other completions from here on, and nothing of the one can be held
    # against the other.
    if not {"resume-skips-data", "resume-restarts-noise"} & set(known):
        yield from _compare_what_follows(observed, drawn, wanted[first * per :])


def _compare_what_follows(
    observed: Observed, drawn: Sequence[Any], wanted: Sequence[Any]
) -> Iterator[Comparison]:
    """Compare all that a resumed run did with what the run that was not cut did from there on."""
    summary = recipe_lib.summarize(observed["recipe"])
    whole, resumed = observed["whole"], observed["resumed"]
    trace, ended = resumed.trace, resumed.ended
    updates = whole.updates[resumed.step * summary.gradient_accumulation * len(_ROLES) :]
    yield Comparison("number of groups", len(drawn), len(wanted))
    yield Comparison("number of updates", len(trace.updates), len(updates))
    for index, (got, want) in enumerate(zip(drawn, wanted, strict=False)):
        yield Comparison(f"group {index}", _flat(got.example), _flat(want.example))
    for index, (got, want) in enumerate(zip(trace.updates, updates, strict=False)):
        for name in ("example", "after", "moments_after"):
            yield Comparison(
                f"{name} of update {index}", _flat(getattr(got, name)), _flat(getattr(want, name))
            )
        yield Comparison(f"loss of update {index}", got.loss, want.loss)
    last = _states_of(whole, summary.optimizer_steps, summary.gradient_accumulation)
    for role in _ROLES:
        yield Comparison(
            f"the {role}'s final weights", _flat(ended[role].weights), _flat(last[role].weights)
        )
        yield Comparison(
            f"the {role}'s final moments", _flat(ended[role].moments), _flat(last[role].moments)
        )


def _updates(change: Callable[[list[Any], list[Any]], list[Any]]) -> Any:
    """Return the resumed run other updates, from its own and the whole run's."""

    def changed(observed: Observed) -> Observed:
        resumed = observed["resumed"]
        updates = change(resumed.trace.updates, observed["whole"].updates)
        trace = dataclasses.replace(resumed.trace, updates=updates)
        return {**observed, "resumed": dataclasses.replace(resumed, trace=trace)}

    return changed


def _with(update: Any, **changes: Any) -> Any:
    return dataclasses.replace(update, **changes)


def _first_batch_again(observed: Observed) -> Observed:
    """Let the resumed run use the first batch's problems again."""
    resumed = observed["resumed"]
    groups = [group for group in observed["whole"].groups if not group.evaluation]
    groups = groups[: len(resumed.trace.groups)]
    trace = dataclasses.replace(resumed.trace, groups=groups)
    return {**observed, "resumed": dataclasses.replace(resumed, trace=trace)}


def _step_less(observed: Observed) -> Observed:
    resumed = observed["resumed"]
    steps = [each - 1 for each in resumed.trace.global_steps]
    trace = dataclasses.replace(resumed.trace, global_steps=steps)
    return {**observed, "resumed": dataclasses.replace(resumed, trace=trace)}


# Two mini-batches of two epochs: four optimizer steps a batch, and checkpoints
# that fall due after the first, the third and the sixth.
_CUT = schedule.Case(8, 4, 2, 2, max_steps=100, batches=2)
_INTERVAL = 3


def _observe_saved(context: Context) -> Observed:
    directory = context.folder / "saved"
    _saving_dry_run(context, directory)
    return {
        "saved": {role: upstream.saved_steps(directory, role) for role in _ROLES},
        "per_batch": _CUT.batch // _CUT.mini_batch * _CUT.epochs,
    }


def _saving_dry_run(context: Context, directory: pathlib.Path) -> dry_run.DryRun:
    recipe = recipe_lib.replace(
        context.recipe,
        "ppo.beta=0",
        *_CUT.assignments,
        f"checkpoints.save_interval_steps={_INTERVAL}",
    )
    return dry_run.run(
        recipe,
        tokenizer=context.components.tokenizer,
        fixes=context.fixes,
        batches=_CUT.batches,
        directory=directory,
    )


def _compare_saved(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    batch, last = observed["per_batch"], observed["per_batch"] * _CUT.batches
    due = {1, *range(_INTERVAL, last + 1, _INTERVAL), last}
    if "resume-mid-batch-step" not in known:
        due = {-(-step // batch) * batch for step in due}
    for role in _ROLES:
        yield Comparison(
            f"steps at which the {role} was saved", observed["saved"][role], [*sorted(due)]
        )


def _observe_apart(context: Context) -> Observed:
    directory = context.folder / "apart"
    ended = _saving_dry_run(context, directory).ended
    *_, before, last = upstream.saved_steps(directory, "critic")
    shutil.rmtree(directory / "checkpoints" / "critic" / str(last))
    try:
        began = _saving_dry_run(context, directory).began
    except errors.HarnessError:
        got = "refused"
    else:
        got = [began[role].train_steps for role in _ROLES]
    return {"got": got, "apart": [ended["actor"].train_steps, before]}


def _compare_apart(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    want = observed["apart"] if "resume-actor-critic-apart" in known else "refused"
    yield Comparison("actor and critic of two steps", observed["got"], want)


PROPERTIES = (
    Property(
        id="restored-state",
        area="checkpoint",
        statement=(
            "Right after a restore, weights, moments, counts, optimizer steps and the global step "
            "of actor and critic are those that were saved, bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_restored,
        compare=_compare_restored,
        wrong={
            "nothing restored": _take("fresh", "weights", "moments", "steps", "global"),
            "optimizers left as they were": _take("fresh", "moments"),
            "critic left as it was": _take("fresh", "critic's weights"),
            "LoRA left as it was": _take("fresh", "actor's weights in passing"),
            "counted from 0": _take("fresh", "optimizer steps in passing"),
            "gradients counted from 0": _take("fresh", "gradients in passing"),
            "global step from 0": _take("fresh", "global step in passing"),
            "a step later": _take("next", "in passing"),
        },
        defects=("last-checkpoint-no-metadata",),
    ),
    Property(
        id="resume-equals-going-on",
        area="checkpoint",
        statement=(
            "A run that is cut after its first batch and resumed ends with the weights, moments, "
            "counts and global step of the run that was not, bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_resumed,
        compare=_compare_resumed,
        wrong={
            "from the initial weights": _updates(
                lambda own, whole: [_with(own[0], before=whole[0].before), *own[1:]]
            ),
            "with empty moments": _updates(
                lambda own, whole: [
                    own[0],
                    _with(own[1], moments_before=whole[1].moments_before),
                    *own[2:],
                ]
            ),
            "an update less": _updates(lambda own, whole: own[:-2]),
            "steps counted from 0": _updates(
                lambda own, whole: [_with(each, train_steps=each.train_steps - 2) for each in own]
            ),
            "the data from its beginning": _first_batch_again,
            "a global step less": _step_less,
        },
        defects=("resume-skips-data", "resume-restarts-noise"),
    ),
    Property(
        id="checkpoints-end-a-batch",
        area="checkpoint",
        statement=(
            "Every checkpoint is of the end of a batch, where nothing is half done, and actor and "
            "critic are saved at the same steps."
        ),
        tolerance=EXACT,
        observe=_observe_saved,
        compare=_compare_saved,
        wrong={
            "the critic a step late": wrong.value(
                "saved", lambda saved: {**saved, "critic": [each + 1 for each in saved["critic"]]}
            ),
            "the last not saved": wrong.value(
                "saved", lambda saved: {role: steps[:-1] for role, steps in saved.items()}
            ),
            "within a batch": wrong.value(
                "saved", lambda saved: {role: [2, *steps] for role, steps in saved.items()}
            ),
        },
        defects=("resume-mid-batch-step",),
    ),
    Property(
        id="resume-takes-both",
        area="checkpoint",
        statement="A resume takes an actor and a critic of one optimizer step, or refuses.",
        tolerance=EXACT,
        observe=_observe_apart,
        compare=_compare_apart,
        wrong={
            "taken silently": wrong.value("got", lambda got: [9, 5]),
            "the critic from its beginning": wrong.value("got", lambda got: [8, 0]),
        },
        defects=("resume-actor-critic-apart",),
    ),
)
