"""An optimizer step: losses, gradients and AdamW."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context, Replay
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.oracle import gemma, logprob, loss, optimizer

ROLES = ("actor", "critic")


@dataclasses.dataclass(frozen=True)
class Step:
    """One optimizer step of one model.

    Attributes:
      role: `actor` or `critic`.
      number: From 0.
      updates: Its micro-batches, in order.
    """

    role: str
    number: int
    updates: list[Any]

    @property
    def before(self) -> Mapping[str, np.ndarray]:
        """Weights before it."""
        return self.updates[0].before

    @property
    def after(self) -> Mapping[str, np.ndarray]:
        """Weights after it."""
        return self.updates[-1].after

    @property
    def example(self) -> dict[str, np.ndarray]:
        """The mini-batch."""
        names = [name for name in self.updates[0].example if name != "share"]
        return {n: np.concatenate([u.example[n] for u in self.updates]) for n in names}

    def mean(self, figure: Callable[[Any], float]) -> float:
        """Average a figure over the micro-batches."""
        return float(np.mean([figure(update) for update in self.updates]))


def steps(updates: Sequence[Any], micro_batches: int) -> list[Step]:
    """Groups gradients into optimizer steps.

    Args:
      updates: Of a trace.
      micro_batches: Gradients behind one optimizer step.

    Returns:
      Steps of the actor, then of the critic.
    """
    found = []
    for role in ROLES:
        own = [update for update in updates if update.role == role]
        for number, first in enumerate(range(0, len(own), micro_batches)):
            found.append(Step(role, number, own[first : first + micro_batches]))
    return found


def objective(
    step: Step,
    example: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    replay: Replay,
    known: Collection[str],
) -> dict[str, float]:
    """Compute what the trainer reports of some sequences: loss and figures beside it.

    Args:
      step: Whose role is asked for.
      example: The sequences.
      weights: Of the role.
      replay: The oracle's model.
      known: Ids of defects that are taken for granted.

    Returns:
      By the trainer's names.
    """
    ppo = replay.recipe.ppo
    mask = example["completion_mask"].astype(bool)
    prompts, completions = example["prompt_ids"], example["completion_ids"]
    ids = np.concatenate([prompts, completions], axis=1)
    if step.role == "critic":
        found = loss.value_loss(
            replay.values(weights, prompts, completions),
            example["old_values"],
            example["returns"],
            mask,
            ppo.clip_range_value,
        )
        return {
            "loss": found.loss,
            "vf_loss": found.loss,
            "vf_clipfrac": found.clip_fraction,
            "vpred_mean": found.mean_value,
        }
    at_one = "log-prob-temperature" in known
    temperature = 1.0 if at_one else replay.recipe.rollout.temperature
    policy = replay.policy(weights)
    logits = gemma.forward(policy, ids, ids != replay.pad, replay.shape)
    logits = logits[:, prompts.shape[1] - 1 : -1]
    low = ppo.epsilon if ppo.epsilon_low is None else ppo.epsilon_low
    high = ppo.epsilon if ppo.epsilon_high is None else ppo.epsilon_high
    found = loss.policy_loss(
        logprob.token_log_probs(logits, completions, temperature),
        example["old_per_token_logps"],
        example["advantages"],
        mask,
        low,
        high,
        ppo.epsilon_c,
    )
    entropy = loss.entropy_bonus(logits, mask, temperature)
    return {
        "loss": found.loss - (ppo.entropy_coef or 0) * entropy,
        "pg_clipfrac": found.clip_fraction,
        "pg_clipfrac_lower": found.lower_clip_fraction,
        "loss/entropy": entropy,
    }


def _of_mini_batch(
    step: Step, weights: Mapping[str, np.ndarray], replay: Replay, known: Collection[str]
) -> dict[str, float]:
    if "micro-batch-token-mean" not in known:
        return objective(step, step.example, weights, replay, known)
    parts = [objective(step, each.example, weights, replay, known) for each in step.updates]
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def observe_updates(context: Context) -> Observed:
    """Return the optimizer steps of the recorded run."""
    batching = context.recipe.batching
    found = steps(
        context.trace.updates, batching.mini_batch_size // batching.train_micro_batch_size
    )
    reported = [
        {"loss": step.mean(lambda update: update.loss)}
        | {
            name: step.mean(lambda update, name=name: update.aux[name])
            for name in step.updates[0].aux
            if name != "return_mean"
        }
        for step in found
    ]
    return {
        "replay": context.replay,
        "steps": found,
        "reported": reported,
        "after": [step.after for step in found],
        "moments": [step.updates[-1].moments_after for step in found],
        "per_batch": recipe_lib.optimizer_steps_per_batch(context.recipe),
    }


def _compare_losses(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for step, reported in zip(observed["steps"], observed["reported"], strict=True):
        want = _of_mini_batch(step, step.before, observed["replay"], known)
        for name, figure in reported.items():
            if name in want:
                yield Comparison(
                    f"{step.role} {name} of step {step.number}",
                    np.float64(figure),
                    np.float64(want[name]),
                )


def _compare_epochs(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    later = []
    for step, reported in zip(observed["steps"], observed["reported"], strict=True):
        name = "pg_clipfrac" if step.role == "actor" else "vf_clipfrac"
        if step.number % observed["per_batch"] == 0:
            yield Comparison(
                f"{step.role} {name} of the first epoch, step {step.number}",
                np.float64(reported[name]),
                np.float64(0),
            )
        else:
            later.append(reported[name] > 0)
    yield Comparison("something is clipped in a later epoch", any(later), True)


def _recovered(step: Step, moments: Mapping[str, np.ndarray], b1: float) -> dict[str, np.ndarray]:
    """Return the gradient that AdamW was given, from its first moments."""
    before = step.updates[0].moments_before
    return {
        name.split("/mu/")[1]: (moments[name].astype(np.float64) - b1 * before[name]) / (1 - b1)
        for name in moments
        if "/mu/" in name
    }


def _compare_slopes(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    replay = observed["replay"]
    config = replay.recipe.optimizers
    rng = np.random.default_rng(2)
    for step, moments in zip(observed["steps"], observed["moments"], strict=True):
        # A first epoch, and one in which ratios and values are clipped.
        if step.number not in (0, observed["per_batch"] + 1):
            continue
        gradient = _recovered(step, moments, config.b1)
        norm = optimizer.global_norm(gradient)

        def slope(direction: Mapping[str, np.ndarray], step: Step = step) -> float:
            size = 1e-5 / optimizer.global_norm(direction)
            ends = []
            for sign in (1, -1):
                moved = {
                    name: leaf.astype(np.float64) + sign * size * direction.get(name, 0)
                    for name, leaf in step.before.items()
                }
                ends.append(_of_mini_batch(step, moved, replay, known)["loss"])
            return (ends[0] - ends[1]) / (2 * size)

        # Along the gradient the slope is its norm; AdamW gets at most the bound.
        whole = slope({name: leaf / norm for name, leaf in gradient.items()})
        bound = np.inf if config.max_grad_norm is None else config.max_grad_norm
        about = f"{step.role} step {step.number}"
        yield Comparison(f"{about}: norm after clipping", norm / min(whole, bound), np.float64(1))
        for number in range(3):
            direction = _mixed(gradient, norm, rng)
            got = sum(float(np.sum(gradient[name] * d)) for name, d in direction.items())
            want = slope(direction) * norm / whole
            yield Comparison(f"{about}: slope {number}", np.float64(got), np.float64(want))


def _mixed(
    gradient: Mapping[str, np.ndarray], norm: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return a direction in which every weight has a part alike, along its gradient and across."""
    direction = {}
    for name, leaf in sorted(gradient.items()):
        size = max(float(np.linalg.norm(leaf)), 0.01 * norm)
        across = rng.standard_normal(leaf.shape)
        along = rng.choice((-1, 1)) * leaf / size
        direction[name] = (along + across / np.linalg.norm(across)) / size
    return direction


def _compare_adamw(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    recipe = observed["replay"].recipe
    config = recipe.optimizers
    peaks = {"actor": config.actor_learning_rate, "critic": config.critic_learning_rate}
    total = recipe_lib.max_steps(recipe)
    for step, after, moments in zip(
        observed["steps"], observed["after"], observed["moments"], strict=True
    ):
        first = step.updates[0].moments_before
        gradient = _recovered(step, moments, config.b1)
        state = optimizer.AdamWState(
            step.number,
            *(
                {n.split(part)[1]: leaf for n, leaf in first.items() if part in n}
                for part in ("/mu/", "/nu/")
            ),
        )
        trained = {name: step.before[name] for name in gradient}
        weights, state = optimizer.adamw_step(
            trained,
            gradient,
            state,
            optimizer.learning_rate(
                step.number, peaks[step.role], config.warmup_fraction * total, total
            ),
            config.b1,
            config.b2,
            weight_decay=config.weight_decay,
        )
        about = f"{step.role} step {step.number}"
        yield Comparison(
            f"{about}: weights",
            np.concatenate([after[name].ravel() for name in trained]),
            np.concatenate([weights[name].ravel() for name in trained]),
        )
        found = {n.split("/nu/")[1]: leaf for n, leaf in moments.items() if "/nu/" in n}
        # Squares of gradients are small: compared as their roots.
        yield Comparison(
            f"{about}: second moments",
            np.sqrt(np.concatenate([found[name].ravel() for name in trained])),
            np.sqrt(np.concatenate([state.variance[name].ravel() for name in trained])),
        )


def _scaled(name: str, factor: float) -> Callable[[Observed], Observed]:
    def scale(reported: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{**each, name: factor * each[name]} if name in each else each for each in reported]

    return wrong.value("reported", scale)


def _further(observed: Observed) -> Observed:
    after = [
        {n: step.before[n] + 1.1 * (leaf - step.before[n]) for n, leaf in step.after.items()}
        for step in observed["steps"]
    ]
    return {**observed, "after": after}


def without_movement(observed: Observed) -> Observed:
    """Leave the weights where they were."""
    start = {step.role: step.before for step in reversed(observed["steps"])}
    return {**observed, "after": [start[step.role] for step in observed["steps"]]}


def _tilted(observed: Observed) -> Observed:
    """Gradients of which one weight's part is doubled."""

    def tilt(step: Step, moments: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = step.updates[0].moments_before
        chosen = max(
            (name for name in moments if "/mu/" in name),
            key=lambda name: np.linalg.norm(moments[name]),
        )
        return {**moments, chosen: 2 * moments[chosen] - 0.9 * first[chosen]}

    moments = [tilt(s, m) for s, m in zip(observed["steps"], observed["moments"], strict=True)]
    return {**observed, "moments": moments}


def _turned(observed: Observed) -> Observed:
    """Gradients of the wrong sign."""
    moments = [
        {
            name: 2 * 0.9 * step.updates[0].moments_before[name] - leaf if "/mu/" in name else leaf
            for name, leaf in moments.items()
        }
        for step, moments in zip(observed["steps"], observed["moments"], strict=True)
    ]
    return {**observed, "moments": moments}


PROPERTIES = (
    Property(
        id="losses",
        area="loss",
        statement=(
            "The losses of an optimizer step, their clip fractions, entropy and mean value are "
            "token means over its mini-batch, however it is cut into micro-batches."
        ),
        tolerance=Tolerance(1e-3, 2e-5, "a ratio is an exponential of two float32 passes"),
        observe=observe_updates,
        compare=_compare_losses,
        wrong={
            "negated policy and value loss": _scaled("loss", -1),
            "2 percent off": _scaled("loss", 1.02),
            "entropy halved": _scaled("loss/entropy", 0.5),
            "value clip fraction off": _scaled("vf_clipfrac", 0.9),
            "policy clip fraction off": _scaled("pg_clipfrac", 0.9),
        },
        defects=("log-prob-temperature", "micro-batch-token-mean", "clip-fraction-unweighted"),
    ),
    Property(
        id="ratio-is-one",
        area="loss",
        statement=(
            "In the first epoch nothing is clipped, since the policy and the critic are those "
            "that gave the old figures; in later epochs they are not."
        ),
        tolerance=EXACT,
        observe=observe_updates,
        compare=_compare_epochs,
        wrong={
            "clipped at once": wrong.value(
                "reported", lambda rows: [{n: v + 0.1 for n, v in row.items()} for row in rows]
            ),
            "never clipped": wrong.value(
                "reported", lambda rows: [dict.fromkeys(row, 0.0) for row in rows]
            ),
        },
    ),
    Property(
        id="slopes",
        area="update",
        statement=(
            "The gradients that reach AdamW are the slopes of the losses of the mini-batch along "
            "every trained weight, by central differences, cut to the bound of their norm."
        ),
        tolerance=Tolerance(
            0,
            2e-3,
            "slopes of order one, to which each weight adds alike: float32 gradients are off "
            "by some 1e-5",
        ),
        observe=observe_updates,
        compare=_compare_slopes,
        wrong={"the gradient of one weight doubled": _tilted, "the sign turned": _turned},
        defects=("log-prob-temperature", "micro-batch-token-mean"),
    ),
    Property(
        id="adamw",
        area="update",
        statement=(
            "Each optimizer step moves the trained weights as AdamW does, at the learning rate "
            "of its number."
        ),
        tolerance=Tolerance(1e-4, 1e-6, "float32 weights of order one; a step moves them by 1e-2"),
        observe=observe_updates,
        compare=_compare_adamw,
        wrong={"a tenth further": _further, "not at all": without_movement},
    ),
)
