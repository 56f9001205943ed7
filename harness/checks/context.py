"""What the properties look at: one recorded training run, and the components that made it."""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from harness import data, models, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.oracle import gemma, logprob
from harness.upstream.instrument import dry_run
from harness.upstream.instrument import trace as trace_lib

# Small, with everything switched on under which a wrong PPO shows: unequal
# completions, left padding, sequences past the sliding window, two epochs, two
# micro-batches, a KL penalty, a temperature, bounds that clip.
RECIPE = (
    "model.num_layers=2",
    'model.attention_pattern=["local", "global"]',
    "model.embed_dim=32",
    "model.hidden_dim=64",
    "model.head_dim=8",
    "model.sliding_window=16",
    "rollout.max_prompt_length=24",
    "rollout.cache_size=32",
    "rollout.temperature=0.7",
    "lora.rank=4",
    "data.num_batches=5",
    "data.num_test_batches=2",
    "data.train_fraction=0.6",
    "data.arithmetic.train_problems=64",
    "data.arithmetic.test_problems=13",
    "batching.rollout_batch_size=8",
    "batching.mini_batch_size=8",
    "batching.train_micro_batch_size=4",
    "batching.rollout_micro_batch_size=4",
    "batching.compute_logps_micro_batch_size=4",
    "ppo.gamma=0.97",
    "ppo.gae_lambda=0.9",
    "ppo.beta=0.05",
    "ppo.epsilon=0.05",
    "ppo.epsilon_high=0.1",
    "ppo.epsilon_c=1.5",
    "ppo.entropy_coef=0.01",
    "ppo.clip_range_value=0.02",
    "optimizers.actor_learning_rate=0.02",
    "optimizers.critic_learning_rate=0.01",
    "optimizers.max_grad_norm=0.1",
    "optimizers.max_steps=6",
    "evaluation.every_n_steps=2",
    "checkpoints.save_interval_steps=2",
    "warm_start.max_steps=0",
)
_END_PIECES = range(440, 500)


def recipe(*assignments: str) -> recipe_lib.Recipe:
    """Return the recipe of the checks.

    Args:
      *assignments: Changes, `a.b=value`.

    Returns:
      The recipe. About one token in eight ends a completion, so that a random
      policy writes completions of every length.
    """
    plain = recipe_lib.load("tiny", assignments=(*RECIPE, *assignments))
    tokenizer = tokenizer_lib.load(plain)
    ends = ["<eos>", "<end_of_turn>", *(tokenizer.piece(each) for each in _END_PIECES)]
    rollout = dataclasses.replace(plain.rollout, stop_tokens=tuple(ends))
    return dataclasses.replace(plain, rollout=rollout)


def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """Score texts by their letters: fractions of either sign, none alike."""
    del prompts
    answers = columns["answer"]
    return [
        (sum(map(ord, text)) % 17) / 8 - 0.75 + 0.01 * (float(answer) % 7)
        for text, answer in zip(completions, answers, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Components:
    """A learner and what it was made of; nothing has been trained."""

    recipe: recipe_lib.Recipe
    tokenizer: tokenizer_lib.Tokenizer
    mesh: jax.sharding.Mesh
    dataset: data.Dataset
    policy: Any
    actor: Any
    critic: Any
    cluster: upstream.Cluster
    learner: upstream.Learner


@dataclasses.dataclass(frozen=True)
class Resumed:
    """A run that went on from a checkpoint of another.

    Attributes:
      step: Optimizer step of the checkpoint.
      states: Weights, moments and counters right after it was restored, by role.
      global_step: Global step right after.
      trace: What the run then did.
      ended: Weights, moments and counters at its end, by role.
    """

    step: int
    states: dict[str, dry_run.State]
    global_step: int
    trace: trace_lib.Trace
    ended: dict[str, dry_run.State]


class Context:
    """Everything that the properties observe, each made when it is first asked for.

    Attributes:
      mode: `patched`, or `stock` for Tunix exactly as installed.
      fixes: The fixes in place.
    """

    def __init__(self, mode: upstream.Mode = "patched", fixes: str = "all"):
        """Prepare nothing yet.

        Args:
          mode: See the class.
          fixes: Which fixes are in place, as `harness.upstream.choose_fixes` takes it.
        """
        self.mode = mode
        self.fixes = upstream.choose_fixes(mode, fixes)
        self._folder = tempfile.TemporaryDirectory(prefix="ppo-harness-checks-")
        self._learners: list[upstream.Learner] = []
        self._dry_runs: dict[Any, tuple[dry_run.DryRun, ...]] = {}

    def close(self) -> None:
        """Return back threads and files."""
        for learner in self._learners:
            upstream.release(learner)
        self._folder.cleanup()

    def unfixed(self, names: Sequence[str]) -> list[str]:
        """Return those defects that are in this Tunix and that no fix covers here.

        Args:
          names: Ids of known issues.

        Returns:
          Ids, in their order.
        """
        return [name for name in names if not self.fixes.cover(name) and upstream.standing(name)]

    @functools.cached_property
    def recipe(self) -> recipe_lib.Recipe:
        """The recipe of the checks."""
        return recipe()

    @property
    def folder(self) -> pathlib.Path:
        """A folder of the context's own."""
        return pathlib.Path(self._folder.name)

    def build(
        self,
        *assignments: str,
        directory: pathlib.Path | None = None,
        log_probs: bool = False,
    ) -> Components:
        """Make a learner.

        Args:
          *assignments: Changes to the recipe.
          directory: Where checkpoints go, if anywhere; one that holds
            checkpoints is resumed from.
          log_probs: Whether the sampler tells its log-probs.

        Returns:
          The components; the context releases the learner.
        """
        recipe = recipe_lib.replace(self.recipe, *assignments)
        mesh = models.make_mesh(recipe.sharding)
        tokenizer = tokenizer_lib.load(recipe)
        policy = models.make_policy(recipe, mesh)
        actor = models.build_actor(recipe, policy, mesh)
        _move_apart(actor)
        critic = models.build_critic(recipe, policy, mesh)
        cluster = upstream.make_cluster(
            recipe,
            mesh=mesh,
            actor=actor,
            critic=critic,
            tokenizer=tokenizer,
            reference=policy if recipe.ppo.beta > 0 else None,
            directory=directory,
            fixes=self.fixes,
            log_probs=log_probs,
        )
        learner = upstream.make_learner(recipe, cluster=cluster, reward_fn=reward, fixes=self.fixes)
        self._learners.append(learner)
        return Components(
            recipe=recipe,
            tokenizer=tokenizer,
            mesh=mesh,
            dataset=data.load(recipe, tokenizer),
            policy=policy,
            actor=actor,
            critic=critic,
            cluster=cluster,
            learner=learner,
        )

    def run_dry(
        self, *assignments: str, batches: int, stop: int | None = None, **options: Any
    ) -> tuple[dry_run.DryRun, ...]:
        """Run the loop of training without a model; see `harness.upstream.instrument.dry_run`.

        Args:
          *assignments: Changes to the recipe.
          batches: Training batches.
          stop: Batches after which the training is cut, and then resumed.
          **options: Of `run` there.

        Returns:
          What happened: once, or before and after the cut.
        """
        key = repr((assignments, batches, stop, options))
        if key not in self._dry_runs:
            play = functools.partial(
                dry_run.run,
                recipe_lib.replace(self.recipe, "ppo.beta=0", *assignments),
                tokenizer=self.components.tokenizer,
                fixes=self.fixes,
                **options,
            )
            if stop is None:
                self._dry_runs[key] = (play(batches=batches),)
            else:
                folder = self.folder / f"dry-run-{len(self._dry_runs)}"
                self._dry_runs[key] = (
                    play(batches=stop, directory=folder),
                    play(batches=batches, directory=folder),
                )
        return self._dry_runs[key]

    @functools.cached_property
    def components(self) -> Components:
        """A learner that is never trained."""
        return self.build(log_probs=True)

    @functools.cached_property
    def trained(self) -> Components:
        """The learner of `trace`."""
        return self.build(directory=self.folder / "whole", log_probs=True)

    @functools.cached_property
    def trace(self) -> trace_lib.Trace:
        """A whole training run of `trained`, watched."""
        components = self.trained
        return trace_lib.watch(
            components.learner, components.dataset.train, components.dataset.validation
        )

    @functools.cached_property
    def resumed(self) -> Resumed:
        """A second learner, from the checkpoint that the first made after its first batch.

        It is not validated: that must change nothing.
        """
        whole = self.trace
        step = recipe_lib.optimizer_steps_per_batch(self.recipe)
        folder = self.folder / "resumed"
        dry_run.copy_checkpoints(self.folder / "whole", folder, step)
        components = self.build(
            directory=folder, log_probs=whole.generations[0].log_probs is not None
        )
        states, global_step = dry_run.states(components.learner), components.cluster.global_steps
        trace = trace_lib.watch(components.learner, components.dataset.train)
        return Resumed(step, states, global_step, trace, dry_run.states(components.learner))

    @functools.cached_property
    def replay(self) -> "Replay":
        """The oracle on this context's model."""
        return Replay(self.recipe, pad=0)


def _move_apart(actor: Any) -> None:
    """Return LoRA's second factors values, so that the policy is not its reference."""
    rng = np.random.default_rng(5)
    for name, factor in sorted(upstream.parameters(actor).items()):
        if name.endswith("_lora_b"):
            noise = rng.normal(0, 0.1, factor.shape).astype(factor.dtype)
            factor.set_value(jax.device_put(noise, factor.get_value().sharding))


@dataclasses.dataclass(frozen=True)
class Replay:
    """The model in NumPy float64, on weights as they stood at some moment.

    Attributes:
      recipe: Shapes, LoRA scale, temperature.
      pad: The pad id.
    """

    recipe: recipe_lib.Recipe
    pad: int
    _known: dict[Any, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def shape(self) -> gemma.Shape:
        """What the weights alone do not say."""
        model = self.recipe.model
        return gemma.Shape(
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            sliding_window=model.sliding_window,
            local_base=model.local_rope_base,
            global_base=model.global_rope_base,
            pattern=tuple(model.attention_pattern),
        )

    def policy(self, weights: Mapping[str, np.ndarray], *, adapted: bool = True) -> Any:
        """Merge LoRA into the weights of an actor, or leaves it out: the reference."""
        plain, pairs = gemma.split_lora(weights)
        if not adapted:
            return plain
        lora = self.recipe.lora
        return gemma.merge_lora(plain, pairs, lora.alpha / lora.rank)

    def logits(
        self,
        weights: Any,
        prompt_ids: np.ndarray,
        completion_ids: np.ndarray,
        real: np.ndarray | None = None,
    ) -> np.ndarray:
        """Compute the logits [B, T, V] from which each completion token was drawn.

        Args:
          weights: By path.
          prompt_ids: [B, P].
          completion_ids: [B, T].
          real: [B, P + T] whether a position holds a token; where no pad is, if none.

        Returns:
          The logits.
        """
        ids = np.concatenate([prompt_ids, completion_ids], axis=1)
        if real is None:
            real = np.asarray(ids != self.pad)
        # Several properties ask for the same pass.
        key = hash((ids.tobytes(), real.tobytes(), *(leaf.tobytes() for leaf in weights.values())))
        if key not in self._known:
            self._known[key] = gemma.forward(weights, ids, real, self.shape)
        return self._known[key][:, prompt_ids.shape[1] - 1 : -1]

    def log_probs(
        self,
        weights: Any,
        prompt_ids: np.ndarray,
        completion_ids: np.ndarray,
        temperature: float | None = None,
        real: np.ndarray | None = None,
    ) -> np.ndarray:
        """Compute log-probs [B, T], at the rollout's temperature unless another is given."""
        temperature = self.recipe.rollout.temperature if temperature is None else temperature
        logits = self.logits(weights, prompt_ids, completion_ids, real)
        return logprob.token_log_probs(logits, completion_ids, temperature)

    def values(
        self, critic: Mapping[str, np.ndarray], prompt_ids: np.ndarray, completion_ids: np.ndarray
    ) -> np.ndarray:
        """Compute values [B, T] of the states before each completion token."""
        ids = np.concatenate([prompt_ids, completion_ids], axis=1)
        backbone = {
            name.removeprefix("backbone/"): leaf
            for name, leaf in critic.items()
            if name.startswith("backbone/")
        }
        found = gemma.values(backbone, critic["score/kernel"], ids, ids != self.pad, self.shape)
        return found[:, prompt_ids.shape[1] - 1 : -1]
