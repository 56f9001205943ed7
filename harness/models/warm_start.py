"""Supervised training of a random policy, so that PPO has something to improve.

The policy learns to write the final line of a solution, in the layout that
rollouts have: prompts padded on the left, completions on the right. It stops
as soon as it answers the asked share of problems that it is not trained on.
The weights are stored under a key of everything that determines them.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.models.gemma3 import model as gemma3
from tunix.sft import utils as sft_utils

from harness import cache, errors
from harness import recipe as recipe_lib
from harness.data.problem import Problem
from harness.data.prompt import extract_answer, format_prompt
from harness.models import gemma, precision
from harness.models import mesh as mesh_lib
from harness.tokenizer import Tokenizer

_PACKAGES = ("google-tunix", "jax", "jaxlib", "flax", "optax", "numpy")
_SHAPING = ("seed", "model", "precision", "warm_start", "sharding")


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What the warm start did.

    Attributes:
      steps: Optimizer steps made.
      accuracy: Share of held-back problems whose whole answer is the likeliest
        at every token, at the end.
    """

    steps: int
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Examples:
    """Problems laid out as rollouts are.

    Attributes:
      tokens: int32 [N, P + T]; prompts end at P, answers begin there.
      is_answer: bool [N, P + T]; where the loss looks.
    """

    tokens: np.ndarray
    is_answer: np.ndarray


def warm_start(
    recipe: recipe_lib.Recipe,
    policy: gemma3.Gemma3,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    mesh: jax.sharding.Mesh,
    on_step: Callable[[int, float], None] = lambda step, accuracy: None,
) -> WarmStart:
    """Train a policy by supervision, or takes the weights from the cache.

    Args:
      recipe: `warm_start`, and the lengths and stop tokens of rollouts.
      policy: The model before LoRA; changed in place.
      tokenizer: The tokenizer.
      problems: Training problems; the first `check_problems` are held back.
      mesh: Devices that hold the policy.
      on_step: Called with the step and the held-back accuracy at each look.

    Returns:
      What was done; the same whether it was trained or cached.

    Raises:
      HarnessError: Too few problems whose prompt and answer fit.
    """
    config = recipe.warm_start
    examples = make_examples(recipe, tokenizer, problems)
    if len(examples.tokens) < config.check_problems + config.batch:
        raise errors.HarnessError(
            f"the warm start needs {config.check_problems + config.batch} problems whose prompt "
            f"and answer fit the rollout's lengths, and {len(examples.tokens)} do: raise "
            "rollout.max_prompt_length, or lower warm_start.check_problems"
        )
    path = _cache_file(recipe, tokenizer, examples)
    if path.is_file():
        return _restore(path, policy, mesh)
    report = _train(recipe, policy, examples, mesh, tokenizer.pad_id(), on_step)
    _store(path, policy, report)
    return report


def make_examples(
    recipe: recipe_lib.Recipe, tokenizer: Tokenizer, problems: Sequence[Problem]
) -> Examples:
    """Turn problems into token ids.

    Args:
      recipe: Lengths, stop tokens, and the share of wrong answers; the first
        `warm_start.check_problems` rows always have the right one.
      tokenizer: The tokenizer.
      problems: N problems; those that do not fit the lengths are left out.

    Returns:
      The examples, in the order of the problems.
    """
    prompt_length, new_tokens = recipe.rollout.max_prompt_length, recipe.rollout.max_new_tokens
    end, pad = tokenizer.end_ids(recipe.rollout.stop_tokens)[-1], tokenizer.pad_id()
    fitting: list[tuple[list[int], list[int]]] = []
    for problem in problems:
        text = format_prompt(recipe.data, problem.question)
        prompt = [tokenizer.bos_id(), *tokenizer.encode(text)]
        answer = [*tokenizer.encode(f"\n#### {extract_answer(problem.answer)}"), end]
        if len(prompt) <= prompt_length and len(answer) <= new_tokens:
            fitting.append((prompt, answer))
    answers = sorted({tuple(answer) for _, answer in fitting})
    rng = np.random.default_rng([recipe.seed, 2])
    wrong = rng.random(len(fitting)) < recipe.warm_start.wrong_answers
    wrong[: recipe.warm_start.check_problems] = False  # these say how good the policy is
    rows, masks = [], []
    for (prompt, answer), replaced in zip(fitting, wrong, strict=True):
        if replaced:
            answer = list(answers[rng.integers(len(answers))])
        left, right = prompt_length - len(prompt), new_tokens - len(answer)
        rows.append([pad] * left + prompt + answer + [pad] * right)
        masks.append([False] * prompt_length + [True] * len(answer) + [False] * right)
    width = prompt_length + new_tokens
    return Examples(
        np.asarray(rows, np.int32).reshape(-1, width), np.asarray(masks, bool).reshape(-1, width)
    )


def cache_path(
    recipe: recipe_lib.Recipe, tokenizer: Tokenizer, problems: Sequence[Problem]
) -> pathlib.Path:
    """Return the file of the weights, whether it is there or not.

    Its name follows from everything that determines the weights: seed, model,
    mesh, `warm_start`, the token ids of the problems, the tokenizer, the
    versions of the libraries, the backend, and this code.

    Args:
      recipe: As in `warm_start`.
      tokenizer: The tokenizer.
      problems: Training problems.

    Returns:
      A path under the cache.
    """
    return _cache_file(recipe, tokenizer, make_examples(recipe, tokenizer, problems))


def _cache_file(
    recipe: recipe_lib.Recipe, tokenizer: Tokenizer, examples: Examples
) -> pathlib.Path:
    return cache.cache_root() / "warm_start" / f"{_key(recipe, tokenizer, examples)}.npz"


def _programs(graph: Any, optimizer: Any, pad_id: int) -> tuple[Any, Any]:
    """Return the compiled step, which uses up weights and optimizer state, and the accuracy."""

    def logits_of(params: Any, tokens: jax.Array) -> jax.Array:
        mask = tokens != pad_id
        logits, _ = nnx.merge(graph, params)(
            tokens[:, :-1],
            sft_utils.build_positions_from_mask(mask)[:, :-1],
            None,
            sft_utils.make_causal_attn_mask(mask[:, :-1]),
        )
        return logits.astype(jnp.float32)

    def loss_of(params: Any, tokens: jax.Array, is_answer: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits_of(params, tokens), tokens[:, 1:]
        )
        weight = is_answer[:, 1:]
        return jnp.sum(losses * weight) / jnp.sum(weight)

    def step(params: Any, opt_state: Any, tokens: jax.Array, is_answer: jax.Array):
        grads = jax.grad(loss_of)(params, tokens, is_answer)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def accuracy_of(params: Any, tokens: jax.Array, is_answer: jax.Array) -> jax.Array:
        guesses = jnp.argmax(logits_of(params, tokens), axis=-1)
        right = (guesses == tokens[:, 1:]) | ~is_answer[:, 1:]
        return jnp.mean(jnp.all(right, axis=-1))

    return jax.jit(step, donate_argnums=(0, 1)), jax.jit(accuracy_of)


def _train(
    recipe: recipe_lib.Recipe,
    policy: gemma3.Gemma3,
    examples: Examples,
    mesh: jax.sharding.Mesh,
    pad_id: int,
    on_step: Callable[[int, float], None],
) -> WarmStart:
    config = recipe.warm_start
    held, rest = config.check_problems, len(examples.tokens) - config.check_problems
    dtypes = recipe.precision
    trained = policy
    if dtypes.trained_dtype != recipe.model.dtype:
        trained = gemma.clone(policy, dtypes.trained_dtype)
    graph, params = nnx.split(trained)
    optimizer: Any = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.schedules.linear_schedule(0.0, config.learning_rate, 20)),
    )
    if not dtypes.trained_dtype == dtypes.moments_dtype == "float32":
        optimizer = precision.with_moments_in(optimizer, dtypes.moments_dtype)
    opt_state = optimizer.init(params)

    step, accuracy_of = _programs(graph, optimizer, pad_id)
    rng = np.random.default_rng([recipe.seed, 1])
    accuracy, done = 0.0, 0
    with mesh_lib.entered(mesh):
        while done < config.max_steps and accuracy < config.target_accuracy:
            for _ in range(min(config.check_every, config.max_steps - done)):
                rows = held + rng.integers(0, rest, config.batch)
                params, opt_state = step(
                    params, opt_state, examples.tokens[rows], examples.is_answer[rows]
                )
                done += 1
            accuracy = float(accuracy_of(params, examples.tokens[:held], examples.is_answer[:held]))
            on_step(done, accuracy)
    # Laid over the mesh as cached weights are, so that what is compiled later
    # does not depend on whether the weights were trained or read.
    nnx.update(policy, precision.cast(params, recipe.model.dtype))
    weights = {path: np.asarray(leaf) for path, leaf in gemma.weights_of(policy).items()}
    gemma.materialise(policy, weights, mesh)
    return WarmStart(done, accuracy)


def _key(recipe: recipe_lib.Recipe, tokenizer: Tokenizer, examples: Examples) -> str:
    tree = recipe_lib.to_dict(recipe)
    digest = hashlib.sha256()
    here = pathlib.Path(__file__)
    for part in (
        json.dumps({name: tree[name] for name in _SHAPING}),
        json.dumps({name: importlib.metadata.version(name) for name in _PACKAGES}),
        f"{jax.default_backend()} {tokenizer.sha256}",
    ):
        digest.update(part.encode())
    digest.update(examples.tokens.tobytes() + examples.is_answer.tobytes())
    for module in (here, here.with_name("gemma.py"), here.with_name("precision.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()[:32]


def _store(path: pathlib.Path, policy: gemma3.Gemma3, report: WarmStart) -> None:
    arrays = {
        "/".join(map(str, key)): np.asarray(value, np.float32)
        for key, value in gemma.weights_of(policy).items()
    }
    with cache.replacing(path) as file:
        np.savez(file, __steps=report.steps, __accuracy=report.accuracy, **arrays)  # type: ignore[arg-type]


def _restore(path: pathlib.Path, policy: gemma3.Gemma3, mesh: jax.sharding.Mesh) -> WarmStart:
    names = {"/".join(map(str, key)): key for key in gemma.weights_of(policy)}
    with np.load(path) as arrays:
        weights = {key: arrays[name] for name, key in names.items()}
        gemma.materialise(policy, weights, mesh)
        return WarmStart(int(arrays["__steps"]), float(arrays["__accuracy"]))
