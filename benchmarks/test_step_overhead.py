"""What the harness adds to a global step, beside a plain Tunix script.

Three trainings of the same recipe and weights live in one process and do
a global step each in a round: a plain Tunix script, and what `run` does (journal,
guards and all), with Tunix as installed and with the fixes. Only ratios within
a round are looked at, so that what else the machine does meanwhile meets all
three alike.
"""

import dataclasses
import functools
import pathlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from orbax import checkpoint as ocp
from tunix.rl import rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

from harness import data, models, rewards, training, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.training import loop, run_dir
from harness.upstream.engine import backends

WARM_UP, ROUNDS = 4, 48


class Rounds:
    """Rounds in which several trainings do one global step each.

    A learner asks for its next batch when the step before it is over; the time
    from a batch to the next request is the time of a step. The order within a
    round is drawn anew each round, so that no learner always follows another.
    A last round lets each end (save and close) while the others wait.
    """

    def __init__(self, names: list[str], rounds: int):
        random = np.random.default_rng(0)
        self._order = [str(name) for _ in range(rounds + 1) for name in random.permutation(names)]
        self._position = 0
        self._ended: set[str] = set()
        self._changed = threading.Condition()
        self.wall_clock: dict[str, list[float]] = {name: [] for name in names}
        self.cpu: dict[str, list[float]] = {name: [] for name in names}

    def batches(self, name: str, source: list[Any], trained: Any) -> Iterator[Any]:
        # Upstream looks at the first batch before its first step.
        yield source[0]
        for batch in source[1:]:
            self._wait(name)
            wall_clock, cpu = time.perf_counter(), time.process_time()
            yield batch
            # What is still computed belongs to this step, not to the next one's.
            jax.block_until_ready(jax.tree.leaves(nnx.state(trained, nnx.Param)))
            self.wall_clock[name].append(time.perf_counter() - wall_clock)
            self.cpu[name].append(time.process_time() - cpu)
            self._pass_on()
        self._wait(name)

    def end(self, name: str) -> None:
        """Take a learner out of the order, whether it ended well or not."""
        with self._changed:
            self._ended.add(name)
            self._skip()

    def _wait(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._order[self._position] == name)

    def _pass_on(self) -> None:
        with self._changed:
            self._position += 1
            self._skip()

    def _skip(self) -> None:
        while self._position < len(self._order) and self._order[self._position] in self._ended:
            self._position += 1
        self._changed.notify_all()


def plain_learner(
    recipe: recipe_lib.Recipe, mesh: Any, actor: Any, critic: Any, tok: Any, folder: str
) -> Any:
    """What a user of Tunix writes by hand for this recipe."""
    steps = recipe.data.num_batches * recipe.ppo.num_epochs

    def optimizer(rate: float) -> optax.GradientTransformation:
        schedule = optax.schedules.warmup_cosine_decay_schedule(
            0.0, rate, max(1, steps // 10), steps, 0.0
        )
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, b1=0.9, b2=0.999, weight_decay=0.01),
        )

    config = rl_cluster.ClusterConfig(
        role_to_mesh={role: mesh for role in rl_cluster.Role},  # noqa: C420
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optimizer(recipe.optimizers.actor_learning_rate),
            critic_optimizer=optimizer(recipe.optimizers.critic_learning_rate),
            max_steps=steps,
            eval_every_n_steps=10,
            mini_batch_size=recipe.batching.mini_batch_size,
            train_micro_batch_size=recipe.batching.train_micro_batch_size,
            rollout_micro_batch_size=recipe.batching.rollout_micro_batch_size,
            compute_logps_micro_batch_size=recipe.batching.compute_logps_micro_batch_size,
            checkpoint_root_directory=f"{folder}/checkpoints",
            checkpointing_options=ocp.CheckpointManagerOptions(
                save_interval_steps=recipe.checkpoints.save_interval_steps, max_to_keep=4
            ),
            metrics_logging_options=backends.logger_options(recipe, pathlib.Path(folder)),
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=recipe.rollout.max_new_tokens,
            max_prompt_length=recipe.rollout.max_prompt_length,
            kv_cache_size=recipe.rollout.cache_size,
            temperature=recipe.rollout.temperature,
            top_p=recipe.rollout.top_p,
            top_k=recipe.rollout.top_k,
            eos_tokens=list(tok.end_ids(recipe.rollout.stop_tokens)),
        ),
    )
    cluster = rl_cluster.RLCluster(actor=actor, critic=critic, tokenizer=tok, cluster_config=config)

    def reward(prompts: Any, completions: Any, answer: Any, **_: Any) -> list[float]:
        return [rewards.score(text, truth) for text, truth in zip(completions, answer, strict=True)]

    return ppo_learner.PPOLearner(
        rl_cluster=cluster,
        ppo_config=ppo_learner.PPOConfig(
            num_iterations=recipe.ppo.num_epochs,
            beta=0.0,
            epsilon=recipe.ppo.epsilon,
            gamma=recipe.ppo.gamma,
            gae_lambda=recipe.ppo.gae_lambda,
            clip_range_value=recipe.ppo.clip_range_value,
        ),
        reward_fns=reward,  # type: ignore[arg-type]
        data_shuffle_seed=recipe.seed,
    )


def ratio(mine: list[float], plain: list[float]) -> tuple[float, float, float]:
    """Median of the ratios of rounds, and its 95% interval by sign statistics."""
    ratios = sorted(a / b for a, b in zip(mine, plain, strict=True))
    # Order statistics that hold the median with 95% for a binomial of one half.
    margin = int(0.98 * np.sqrt(len(ratios))) + 1
    middle = len(ratios) // 2
    return (
        statistics.median(ratios),
        ratios[max(0, middle - margin)],
        ratios[min(len(ratios) - 1, middle + margin)],
    )


class Trainings:
    """What is compared: one recipe trained by a plain script, and as `run` does.

    Attributes:
      source: The batches.
    """

    def __init__(self, folder: pathlib.Path):
        batches = f"data.num_batches={2 + WARM_UP + ROUNDS}"
        self._folder = folder
        self._recipe = recipe_lib.load("tiny", assignments=[batches, "warm_start.max_steps=0"])
        self._mesh = models.make_mesh(self._recipe.sharding)
        self._tokenizer = tokenizer_lib.load(self._recipe)
        self._dataset = data.load(self._recipe, self._tokenizer)
        # One batch fewer than the limit asks for: a learner then asks for another
        # when its last step is over, and so lets the next one go on.
        train = self._dataset.train
        self.source = [train[i] for i in range(len(train) - 1)]

    def models(self) -> tuple[Any, Any]:
        """Return an actor and a critic."""
        policy = models.make_policy(self._recipe, self._mesh)
        return (
            models.build_actor(self._recipe, policy, self._mesh),
            models.build_critic(self._recipe, policy, self._mesh),
        )

    def plain(self, actor: Any, critic: Any, batches: Iterator[Any]) -> None:
        folder = str(self._folder / "plain")
        plain_learner(self._recipe, self._mesh, actor, critic, self._tokenizer, folder).train(
            batches
        )

    def as_run_does(
        self, mode: upstream.Mode, actor: Any, critic: Any, batches: Iterator[Any]
    ) -> None:
        fixes = upstream.choose_fixes(mode)
        shared = {"mesh": self._mesh, "tokenizer": self._tokenizer}
        with run_dir.claim(self._folder / mode, self._recipe, mode, {}) as claimed:
            loop.train(
                self._recipe,
                # An iterator is all that upstream asks of training data.
                dataclasses.replace(self._dataset, train=batches, validation=None),  # type: ignore[arg-type]
                functools.partial(upstream.make_cluster, actor=actor, critic=critic, **shared),
                rewards.build(self._recipe.reward),
                fixes=fixes,
                folder=claimed,
                options=training.Options(),
            )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # stock Tunix cuts rewards
def test_global_step_beside_a_plain_script(benchmark: Any, tmp_path: Any) -> None:
    compared = Trainings(tmp_path)
    trainings: dict[str, Callable[[Any, Any, Iterator[Any]], None]] = {
        "plain": compared.plain,
        "stock": functools.partial(compared.as_run_does, "stock"),
        "patched": functools.partial(compared.as_run_does, "patched"),
    }
    pairs = {name: compared.models() for name in trainings}
    rounds = Rounds(list(trainings), rounds=len(compared.source) - 1)

    def train(name: str) -> None:
        try:
            batches = rounds.batches(name, compared.source, pairs[name])
            trainings[name](*pairs[name], batches)
        finally:
            rounds.end(name)

    def train_all() -> None:
        with futures.ThreadPoolExecutor(len(trainings)) as pool:
            for ended in [pool.submit(train, name) for name in trainings]:
                ended.result()

    benchmark.pedantic(train_all, rounds=1, iterations=1)
    for clock, found in (("wall_clock", rounds.wall_clock), ("cpu", rounds.cpu)):
        seconds = {name: each[WARM_UP:] for name, each in found.items()}
        assert {len(each) for each in seconds.values()} == {ROUNDS}
        for name in ("stock", "patched"):
            middle, low, high = ratio(seconds[name], seconds["plain"])
            benchmark.extra_info[f"{name}_to_plain_{clock}"] = middle
            benchmark.extra_info[f"{name}_to_plain_{clock}_ci95"] = [low, high]
            print(f"\n{clock} {name} / plain: {middle:.4f} ({low:.4f} .. {high:.4f})")
        benchmark.extra_info[f"plain_{clock}_seconds_median"] = statistics.median(seconds["plain"])
    benchmark.extra_info["device"] = jax.devices()[0].device_kind
