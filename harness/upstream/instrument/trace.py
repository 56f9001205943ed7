"""Watches a learner train, and keeps what each part was given and gave, in NumPy."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.monitoring
import numpy as np
from flax import nnx

from harness.models import gemma
from harness.upstream import hooks
from harness.upstream.engine import learner as learner_lib

Arrays = dict[str, np.ndarray]
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Generation:
    """One call of the rollout worker.

    Attributes:
      prompts: [b] texts.
      mode: `temperature`, `top_p` and so on of the call.
      actor: Weights that generated, by path.
      prompt_ids: [b, P] padded on the left.
      buffer: [b, P + T] every token that was written, prompt first.
      last_position: Place of the last token that was written.
      tokens: [b] completions as handed on.
      texts: [b] their texts.
      log_probs: [b] log-probs that the sampler gave, or none.
    """

    prompts: list[str]
    mode: dict[str, Any]
    actor: Arrays
    prompt_ids: np.ndarray
    buffer: np.ndarray
    last_position: int
    tokens: list[np.ndarray]
    texts: list[str]
    log_probs: list[np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Sequences whose advantages were computed together.

    Attributes:
      evaluation: Whether it served validation.
      columns: Columns of the data set, [G] each.
      example: Arrays of upstream's example, [G, ...] each.
      completions: [G] texts that the reward was asked about.
      scores: [G] what the reward said.
      actor: Weights by path when it began.
      critic: Weights by path when it began.
      generations: How many of the trace's generations were made before its end.
      logps_calls: Rows of each call for log-probs.
      values_calls: Rows of each call for values.
    """

    evaluation: bool
    columns: Arrays
    example: Arrays
    completions: list[str]
    scores: np.ndarray
    actor: Arrays
    critic: Arrays
    generations: int
    logps_calls: list[int]
    values_calls: list[int]


@dataclasses.dataclass(frozen=True)
class Update:
    """One gradient of one model, and the optimizer step if it ended one.

    Attributes:
      role: `actor` or `critic`.
      example: Arrays of the micro-batch.
      before: Weights by path.
      after: Weights by path.
      moments_before: Adam's moments and counts by path.
      moments_after: Adam's moments and counts by path.
      loss: The loss that was reported.
      aux: Figures reported beside it.
      grad_norm: Norm of the gradient that was reported.
      train_steps: Optimizer steps done, this one counted.
      evaluated: Rows of each validation micro-batch that was looked at meanwhile.
    """

    role: str
    example: Arrays
    before: Arrays
    after: Arrays
    moments_before: Arrays
    moments_after: Arrays
    loss: float
    aux: dict[str, float]
    grad_norm: float
    train_steps: int
    evaluated: list[int]


@dataclasses.dataclass
class Trace:
    """All that was seen, in the order in which it happened.

    Attributes:
      generations: Calls of the rollout worker.
      groups: Calls of the advantage computation.
      updates: Gradients.
      events: Names of the parts, in order: `batch`, `generate`, `group`, `actor`, `critic`.
      compiled: Programs compiled before each `batch` event, and after the last step.
      metrics: What upstream logged: (mode, prefix/name, global step) -> (values, result).
      history: What the trainers logged, a figure an optimizer step, by role, name and mode.
      global_steps: The cluster's count at each entry of `compiled`.
    """

    generations: list[Generation] = dataclasses.field(default_factory=list)
    groups: list[Group] = dataclasses.field(default_factory=list)
    updates: list[Update] = dataclasses.field(default_factory=list)
    events: list[str] = dataclasses.field(default_factory=list)
    compiled: list[int] = dataclasses.field(default_factory=list)
    metrics: dict[tuple[str, str, int], tuple[list[Any], Any]] = dataclasses.field(
        default_factory=dict
    )
    history: dict[tuple[str, str, str], list[float]] = dataclasses.field(default_factory=dict)
    global_steps: list[int] = dataclasses.field(default_factory=list)


def watch(
    learner: learner_lib.Learner,
    train: Iterable[Mapping[str, Any]],
    validation: Iterable[Mapping[str, Any]] | None = None,
) -> Trace:
    """Train, and tells what happened.

    Args:
      learner: Fresh; it is trained and must then be released.
      train: Batches.
      validation: Batches.

    Returns:
      The trace.
    """
    trace = Trace()
    cluster = learner.rl_cluster
    compiled = [0]

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        compiled[0] += event == _COMPILED

    def note() -> None:
        trace.compiled.append(compiled[0])
        trace.global_steps.append(cluster.global_steps)

    def batches() -> Iterator[Any]:
        for index, batch in enumerate(train):
            # The first is asked for before the first step begins.
            if index:
                note()
            trace.events.append("batch")
            yield batch

    def closing(close: Any) -> Any:
        def closed() -> None:
            note()
            close()

        return closed

    _record_generations(learner, trace)
    _record_groups(learner, trace)
    _record_updates(cluster.actor_trainer, "actor", trace)
    _record_updates(cluster.critic_trainer, "critic", trace)
    _record_metrics(cluster, trace)
    hooks.CLOSE.install(cluster, closing)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        learner.train(batches(), validation)  # type: ignore[arg-type]
    finally:
        _forget(count)
    logger: Any = cluster.actor_trainer.metrics_logger
    for prefix, names in (
        ("actor", ("loss", "pg_clipfrac", "pg_clipfrac_lower", "loss/entropy", "grad_norm")),
        ("critic", ("loss", "vf_clipfrac", "vpred_mean", "grad_norm")),
    ):
        for name in names:
            if logger.metric_exists(prefix, name, "train"):
                found = logger.get_metric_history(prefix, name, "train")
                trace.history[prefix, name, "train"] = [float(each) for each in found]
    return trace


def weights(model: nnx.Module) -> Arrays:
    """Copy every parameter of a model, LoRA factors too, by slash-joined path."""
    return {name: np.array(leaf.get_value()) for name, leaf in parameters(model).items()}


def parameters(model: nnx.Module) -> dict[str, Any]:
    """Return every parameter of a model, LoRA factors too, by slash-joined path."""
    state = nnx.state(model, nnx.Param)
    return {_name(path): variable for path, variable in nnx.to_flat_state(state)}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in path)


def _arrays(example: Any) -> Arrays:
    named = {field.name: getattr(example, field.name) for field in dataclasses.fields(example)}
    return {name: np.array(value) for name, value in named.items() if value is not None}


def _moments(trainer: Any) -> Arrays:
    state = nnx.state(trainer.optimizer, nnx.optimizer.OptState)
    flat = gemma.flatten(nnx.to_pure_dict(state))
    return {_name(path): np.array(leaf) for path, leaf in flat.items()}


def _record_generations(learner: Any, trace: Trace) -> None:
    cluster = learner.rl_cluster
    last: dict[str, Any] = {}

    def decoding(decode: Any) -> Any:
        def decoded(params: Any, state: Any) -> Any:
            done = decode(params, state)
            last.update(buffer=np.array(done.token_buffer), position=int(done.decoding_step))
            return done

        return decoded

    def generating(generate: Any) -> Any:
        def generated(prompts: Any, config: Any, **kwargs: Any) -> Any:
            actor = weights(cluster.actor_trainer.model)
            output = generate(prompts, config, **kwargs)
            trace.generations.append(_generation(prompts, config, actor, output, last))
            trace.events.append("generate")
            return output

        return generated

    hooks.DECODE.install(cluster, decoding)
    hooks.GENERATE.install(cluster, generating)


def _generation(
    prompts: Any, config: Any, actor: Arrays, output: Any, last: Mapping[str, Any]
) -> Generation:
    names = ("temperature", "top_p", "top_k", "max_tokens_to_generate", "eos_tokens")
    logged = output.logprobs
    return Generation(
        prompts=[str(prompt) for prompt in prompts],
        mode={name: getattr(config, name) for name in names},
        actor=actor,
        prompt_ids=np.array(output.left_padded_prompt_tokens),
        buffer=last["buffer"],
        last_position=last["position"],
        tokens=[np.array(row) for row in output.tokens],
        texts=list(output.text),
        log_probs=None if logged is None else [np.array(row) for row in logged],
    )


def _record_groups(learner: Any, trace: Trace) -> None:
    cluster = learner.rl_cluster
    seen: dict[str, Any] = {"logps": [], "values": []}

    def rewarding(reward: Any) -> Any:
        def rewarded(*args: Any, **kwargs: Any) -> Any:
            scores = reward(*args, **kwargs)
            seen.update(completions=list(kwargs["completions"]), scores=np.array(scores))
            return scores

        return rewarded

    def counting(name: str) -> hooks.Wrapper:
        def wrapper(function: Any) -> Any:
            def counted(*args: Any, **kwargs: Any) -> Any:
                seen[name].append(len(args[0] if args else kwargs["prompt_tokens"]))
                return function(*args, **kwargs)

            return counted

        return wrapper

    def computing(compute: Any) -> Any:
        def computed(training_input: Any, mode: Any = None, **kwargs: Any) -> Any:
            seen["logps"], seen["values"] = [], []
            actor = weights(cluster.actor_trainer.model)
            critic = weights(cluster.critic_trainer.model)
            example = compute(training_input, mode, **kwargs) if mode else compute(training_input)
            trace.groups.append(
                Group(
                    evaluation=str(mode) == "eval",
                    columns={name: np.array(column) for name, column in training_input.items()},
                    example=_arrays(example),
                    completions=seen["completions"],
                    scores=seen["scores"],
                    actor=actor,
                    critic=critic,
                    generations=len(trace.generations),
                    logps_calls=seen["logps"],
                    values_calls=seen["values"],
                )
            )
            trace.events.append("group")
            return example

        return computed

    hooks.REWARDS.install(learner, rewarding)
    hooks.ADVANTAGES.install(learner, computing)
    hooks.LOG_PROBS.install(cluster, counting("logps"))
    hooks.VALUES.install(cluster, counting("values"))


def _record_updates(trainer: Any, role: str, trace: Trace) -> None:
    seen: dict[str, Any] = {}

    def buffering(buffer: Any) -> Any:
        def buffered(metrics_buffer: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
            more = kwargs.get("additional_metrics")
            if more:  # validation reports none
                seen.update(loss=float(loss), grad_norm=float(more["grad_norm"][0]))
            return buffer(metrics_buffer, loss, *args, **kwargs)

        return buffered

    def finishing(finish: Any) -> Any:
        def finished(aux: Any) -> None:
            seen["aux"] = {name: float(value) for name, value in aux.items()}
            finish(aux)

        return finished

    def evaluating(evaluate: Any) -> Any:
        def evaluated(examples: Any, step: Any) -> None:
            seen["evaluated"] += [len(each.completion_ids) for each in examples]
            evaluate(examples, step)

        return evaluated

    def training(train: Any) -> Any:
        def trained(examples: Any, *args: Any, **kwargs: Any) -> None:
            (example,) = examples
            seen["evaluated"] = []
            before, moments = weights(trainer.model), _moments(trainer)
            arrays = _arrays(example)
            train(examples, *args, **kwargs)
            trace.updates.append(
                Update(
                    role=role,
                    example=arrays,
                    before=before,
                    after=weights(trainer.model),
                    moments_before=moments,
                    moments_after=_moments(trainer),
                    loss=seen["loss"],
                    aux=seen["aux"],
                    grad_norm=seen["grad_norm"],
                    train_steps=trainer.train_steps,
                    evaluated=seen["evaluated"],
                )
            )
            trace.events.append(role)

        return trained

    hooks.FIGURES.install(trainer, buffering)
    hooks.AUXILIARY_FIGURES.install(trainer, finishing)
    hooks.EVALUATION.install(trainer, evaluating)
    hooks.GRADIENT.install(trainer, training)


def _record_metrics(cluster: Any, trace: Trace) -> None:
    logger = cluster._rl_metrics_logger

    def recording(log: Any) -> Any:
        def recorded(buffer: Any) -> None:
            written: dict[str, Any] = {}

            def writing(write: Any) -> Any:
                def wrote(prefix: str, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
                    written[f"{prefix}/{name}"] = np.array(value)
                    write(prefix, name, value, *args, **kwargs)

                return wrote

            with hooks.LOGGED.wrapped(logger, writing):
                log(buffer)
            for name, (values, _) in buffer.metrics.items():
                full = name if "/" in name else f"global/{name}"
                if full in written:
                    key = (str(buffer.mode), full, int(buffer.global_steps))
                    trace.metrics[key] = (list(values), written[full])

        return recorded

    hooks.LOG.install(cluster, recording)


def _forget(listener: Callable[..., None]) -> None:
    # Upstream's logger, when it closes, clears every listener of the process.
    try:
        jax.monitoring.unregister_event_duration_listener(listener)
    except (AssertionError, ValueError):
        return
