"""Does PPO learn? A task that it must solve in a minute, and controls that must not."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property

Score = Callable[[Sequence[str]], np.ndarray]

_BATCHES = 40
_SEEDS = range(5)
_FEW_SEEDS = range(3)
_LEARNED = 0.9
_NEW_TOKENS = 8
_LETTERS = "abcdefghijklmnopqr"
_TARGET = "k"
_COMMON = frozenset(_LETTERS[::2])
_RECIPE = (
    "model.num_layers=2",
    'model.attention_pattern=["local", "global"]',
    f"model.vocab_size={len(_LETTERS) + 4}",
    "model.embed_dim=32",
    "model.hidden_dim=64",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.head_dim=16",
    "model.sliding_window=8",
    "rollout.max_prompt_length=4",
    f"rollout.max_new_tokens={_NEW_TOKENS}",
    "rollout.cache_size=16",
    'rollout.stop_tokens=["<eos>"]',
    "batching.rollout_batch_size=16",
    "batching.mini_batch_size=16",
    "batching.train_micro_batch_size=16",
    "batching.rollout_micro_batch_size=16",
    "batching.compute_logps_micro_batch_size=16",
    "ppo.num_epochs=1",
    "optimizers.actor_learning_rate=0.01",
    "optimizers.critic_learning_rate=0.01",
    "optimizers.weight_decay=0.0",
    "optimizers.warmup_fraction=0.0",
    f"optimizers.max_steps={_BATCHES}",
)


@dataclasses.dataclass(frozen=True)
class _Letters:
    """A tokenizer of single letters, for a vocabulary as small as the task."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of letters."""
        return [4 + _LETTERS.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the letters among ids."""
        return "".join(_LETTERS[int(each) - 4] for each in ids if int(each) >= 4)

    def pad_id(self) -> int:
        """Id of `<pad>`."""
        return 0

    def eos_id(self) -> int:
        """Id of `<eos>`."""
        return 1

    def bos_id(self) -> int:
        """Id of `<bos>`."""
        return 2

    def end_ids(self, pieces: Sequence[str]) -> tuple[int, ...]:
        """Return the one id that ends a completion."""
        del pieces
        return (self.eos_id(),)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training.

    Attributes:
      share: Mean share of wished letters in each batch.
      rewards: Smallest and largest reward given.
    """

    share: np.ndarray
    rewards: tuple[float, float]

    @property
    def end(self) -> float:
        """Mean share over the last five batches."""
        return float(self.share[-5:].mean())


def _share(wished: Collection[str]) -> Score:
    """Return the share of a full completion's positions that hold a wished letter."""

    def score(texts: Sequence[str]) -> np.ndarray:
        return np.array([sum(each in wished for each in text) / _NEW_TOKENS for text in texts])

    return score


def _train(
    context: Context,
    seed: int,
    *assignments: str,
    wished: Collection[str] = _TARGET,
    reward: Callable[[np.ndarray], np.ndarray] = np.positive,
) -> Curve:
    """Train a fresh policy on the rewards that `reward` makes of shares."""
    recipe = recipe_lib.load("tiny", assignments=(*_RECIPE, f"seed={seed}", *assignments))
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh)
    tokenizer: Any = _Letters()
    shares: list[float] = []
    given: list[np.ndarray] = []
    score = _share(wished)

    def reward_fn(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> Any:
        del prompts, columns
        found = score(completions)
        shares.extend(found)
        # Below 1 even for a full share: a policy of random weights repeats itself, and
        # would else be paid in whole rewards now and then.
        given.append(reward(found) * _NEW_TOKENS / (_NEW_TOKENS + 1))
        return given[-1].tolist()

    cluster = upstream.make_cluster(
        recipe,
        mesh=mesh,
        actor=policy,
        critic=models.make_critic(policy, mesh, seed),
        tokenizer=tokenizer,
        fixes=context.fixes,
    )
    learner = upstream.make_learner(
        recipe, cluster=cluster, reward_fn=reward_fn, fixes=context.fixes
    )
    rng = np.random.default_rng(seed)
    batch = recipe.batching.rollout_batch_size
    prompts = [
        np.array(["".join(rng.choice(list(_LETTERS), rng.integers(1, 4))) for _ in range(batch)])
        for _ in range(_BATCHES)
    ]
    try:
        learner.train([{"prompts": each} for each in prompts])
    finally:
        upstream.release(learner)
    rewards = np.concatenate(given)
    by_batch = np.array(shares).reshape(-1, batch).mean(axis=1)
    return Curve(by_batch, (float(rewards.min()), float(rewards.max())))


def _broken(context: Context, defects: Collection[str]) -> bool:
    return not all(context.fixes.cover(each) for each in defects)


_BREAKS_LEARNING = ("reward-truncated", "end-token-dropped", "whitening-group")
_MICRO = (
    "batching.train_micro_batch_size=1",
    "batching.rollout_micro_batch_size=1",
    "batching.compute_logps_micro_batch_size=1",
)
_NO_RATE = ("optimizers.actor_learning_rate=1e-12", "optimizers.critic_learning_rate=1e-12")


def _well_formed(observed: Observed) -> Iterator[Comparison]:
    low, high = observed["range"]
    for index, curve in enumerate(observed["curves"]):
        yield Comparison(f"batches of run {index}", len(curve.share), _BATCHES)
        within = bool(low <= curve.rewards[0] <= curve.rewards[1] <= high)
        yield Comparison(f"rewards of run {index} from {low} to {high}", within, True)
        bounded = bool(((curve.share >= 0) & (curve.share <= 1)).all())
        yield Comparison(f"shares of run {index} from 0 to 1", bounded, True)


def _observe_learns(context: Context) -> Observed:
    return {
        "range": (0, 1),
        "broken": _broken(context, _BREAKS_LEARNING),
        "curves": [_train(context, seed) for seed in _SEEDS],
    }


def _observe_micro(context: Context) -> Observed:
    return {
        "range": (0, 1),
        "broken": _broken(context, (*_BREAKS_LEARNING, "micro-batch-token-mean")),
        "curves": [_train(context, seed, *_MICRO) for seed in range(2)],
    }


def _compare_learns(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    yield from _well_formed(observed)
    curves = observed["curves"]
    # One seed in five may be unlucky.
    learned = sum(curve.end >= _LEARNED for curve in curves) >= 0.8 * len(curves)
    ends = ", ".join(f"{curve.end:.3f}" for curve in curves)
    yield Comparison(f"learned (shares at the end: {ends})", learned, not known)


def _observe_zero_rate(context: Context) -> Observed:
    return {"range": (0, 1), "broken": False, "curves": [_train(context, 0, *_NO_RATE)]}


def _compare_zero_rate(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    yield from _well_formed(observed)
    half = _BATCHES // 2
    for curve in observed["curves"]:
        moved = float(curve.share[-half:].mean() - curve.share[:half].mean())
        # A row's share has a deviation of some 0.06, so the mean of 320 rows one of 0.004.
        yield Comparison(f"flat (moved by {moved:.3f})", abs(moved) < 0.04, True)


def _observe_negated(context: Context) -> Observed:
    return {
        "range": (-1, 0),
        "broken": _broken(context, _BREAKS_LEARNING),
        "curves": [
            _train(context, seed, wished=_COMMON, reward=np.negative) for seed in _FEW_SEEDS
        ],
    }


def _compare_negated(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    yield from _well_formed(observed)
    # Half of the letters: a policy of random weights writes them about half of the time.
    curves = observed["curves"]
    fell = all(curve.end < 0.1 for curve in curves)
    ends = ", ".join(f"{curve.end:.3f}" for curve in curves)
    yield Comparison(f"fell (shares at the end: {ends})", fell, not known)


def _observe_shuffled(context: Context) -> Observed:
    rng = np.random.default_rng(0)
    return {
        "range": (0, 1),
        "broken": False,
        "curves": [_train(context, seed, reward=rng.permutation) for seed in _FEW_SEEDS],
    }


def _compare_shuffled(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    yield from _well_formed(observed)
    # Noise may drive a policy to one letter, and that to be the target: one in 18.
    flat = sum(curve.end < 0.5 for curve in observed["curves"]) >= 2
    ends = ", ".join(f"{curve.end:.3f}" for curve in observed["curves"])
    yield Comparison(f"flat (shares at the end: {ends})", flat, True)


def _wrong(change: Callable[[Curve, Observed], Curve]) -> Callable[[Observed], Observed]:
    def wrong(observed: Observed) -> Observed:
        return {**observed, "curves": [change(curve, observed) for curve in observed["curves"]]}

    return wrong


def _constant(curve: Curve, share: float) -> Curve:
    return dataclasses.replace(curve, share=np.full(curve.share.shape, share))


def _rising(curve: Curve) -> Curve:
    return dataclasses.replace(curve, share=np.linspace(0, 1, len(curve.share)))


_ILL_FORMED = {
    "stopped early": _wrong(
        lambda curve, _: dataclasses.replace(curve, share=curve.share[: _BATCHES // 2])
    ),
    "rewards out of range": _wrong(
        lambda curve, _: dataclasses.replace(curve, rewards=(-9.0, 9.0))
    ),
    "NaN rewards": _wrong(lambda curve, _: dataclasses.replace(curve, rewards=(np.nan, np.nan))),
}
# Of a broken learner it is learning that would be another error's doing.
_LEARNS_WRONGLY = _wrong(lambda curve, seen: _constant(curve, 1.0 if seen["broken"] else 0.05))
_FALLS_WRONGLY = _wrong(lambda curve, seen: _constant(curve, 0.0 if seen["broken"] else 0.5))

PROPERTIES = (
    Property(
        id="learns",
        area="learning",
        statement=(
            "Rewarded by the share of one letter, in fractions below 1, a policy of random weights "
            f"writes it at 9 positions of 10 after {_BATCHES} batches, with 4 of 5 seeds."
        ),
        tolerance=EXACT,
        observe=_observe_learns,
        compare=_compare_learns,
        wrong={**_ILL_FORMED, "as if it were the other way": _LEARNS_WRONGLY},
        defects=_BREAKS_LEARNING,
        slow=True,
    ),
    Property(
        id="learns-with-micro-batch-1",
        area="learning",
        statement="It learns so too when every micro-batch is one sequence, with 2 of 2 seeds.",
        tolerance=EXACT,
        observe=_observe_micro,
        compare=_compare_learns,
        wrong={**_ILL_FORMED, "as if it were the other way": _LEARNS_WRONGLY},
        defects=(*_BREAKS_LEARNING, "micro-batch-token-mean"),
        slow=True,
    ),
    Property(
        id="zero-rate-stays-flat",
        area="learning",
        statement="With learning rates of next to nothing the share of the letter stays as it was.",
        tolerance=EXACT,
        observe=_observe_zero_rate,
        compare=_compare_zero_rate,
        wrong={**_ILL_FORMED, "rises": _wrong(lambda curve, _: _rising(curve))},
        slow=True,
    ),
    Property(
        id="negated-reward-falls",
        area="learning",
        statement="Punished for the share of half of the letters, the policy avoids them.",
        tolerance=EXACT,
        observe=_observe_negated,
        compare=_compare_negated,
        wrong={**_ILL_FORMED, "as if it were the other way": _FALLS_WRONGLY},
        defects=_BREAKS_LEARNING,
        slow=True,
    ),
    Property(
        id="shuffled-reward-stays-flat",
        area="learning",
        statement="Rewards dealt to the wrong rows teach nothing, with 2 of 3 seeds.",
        tolerance=EXACT,
        observe=_observe_shuffled,
        compare=_compare_shuffled,
        wrong={**_ILL_FORMED, "learns": _wrong(lambda curve, _: _constant(curve, 1.0))},
        slow=True,
    ),
)
