"""What a recipe certainly holds in memory, by arithmetic on its shapes, and what there is.

Counted are the arrays that training keeps, as `resident_lib.resident` lists them, and the gradients
of one step. Activations, caches, temporaries and compiled programs come on top, so a recipe that
is refused here cannot run, and one that is let through still may not: `python -m harness plan`
compiles it to say so.
"""

import contextlib
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
import psutil

from harness import errors, hardware
from harness import recipe as recipe_lib
from harness.measure import memory

_BYTES = {"float32": 4, "bfloat16": 2}
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes that a recipe certainly needs, over all devices of its mesh.

    Attributes:
      policy: The frozen base, which actor and reference share.
      lora: The actor's LoRA factors, Adam's two moments of them and their gradients, added up
        and of one step.
      critic: The critic's own weights: all, or LoRA factors and head.
      moments: Adam's two moments of the critic.
      accumulator: The critic's accumulated gradients, 0 where one micro-batch is the mini-batch.
      gradients: The critic's gradients of one step.
      rollout: The copy of the policy that completions are drawn from, 0 without one.
    """

    policy: int
    lora: int
    critic: int
    moments: int
    accumulator: int
    gradients: int
    rollout: int = 0

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Memory that a run may take.

    Attributes:
      bytes: Bytes of one device, or of the host for devices that are its processors.
      what: What has them, for messages.
      devices: Devices over which the recipe's arrays are spread and that have so much each.
    """

    bytes: int
    what: str
    devices: int = 1


def of(recipe: recipe_lib.Recipe) -> Footprint:
    """Return what a recipe certainly needs.

    Args:
      recipe: Shapes, dtype and batching count.

    Returns:
      Bytes by part.
    """
    precision, base = recipe.precision, _BYTES[recipe.model.dtype]
    trained, moments = _BYTES[precision.trained_dtype], _BYTES[precision.moments_dtype]
    policy, lora = parameters(recipe.model), lora_parameters(recipe.model, recipe.lora)
    adapted = recipe.critic.lora
    critic = policy if adapted is None else lora_parameters(recipe.model, adapted)
    critic += recipe.model.embed_dim  # the score head
    accumulates = recipe.batching.train_micro_batch_size < recipe.batching.mini_batch_size
    accumulator = _BYTES[precision.accumulators_dtype] if accumulates else 0
    drawn = _BYTES[recipe.rollout.dtype or recipe.model.dtype]
    copied = 0
    if recipe.rollout.dtype is not None:
        copied = (policy if drawn != base else 0) + (lora if drawn != trained else 0)
    return Footprint(
        policy=base * policy,
        lora=(2 * trained + 2 * moments + accumulator) * lora,
        critic=trained * critic,
        moments=moments * critic * 2,
        accumulator=accumulator * critic,
        gradients=trained * critic,
        rollout=drawn * copied,
    )


def parameters(model: recipe_lib.Model) -> int:
    """Return the number of weights of a Gemma 3."""
    layers = sum(math.prod(shape) for _, shape, _ in _projections(model))
    norms = 4 * model.embed_dim + 2 * model.head_dim
    return (model.vocab_size + 1) * model.embed_dim + model.num_layers * (layers + norms)


def lora_parameters(model: recipe_lib.Model, lora: recipe_lib.Lora) -> int:
    """Return the number of LoRA's weights: rank x (inputs + outputs) of each adapted module."""
    found = 0
    for index in range(model.num_layers):
        for name, shape, inputs in _projections(model):
            if re.fullmatch(lora.modules, f"layers/{index}/{name}"):
                found += lora.rank * (inputs + math.prod(shape) // inputs)
    return found


def _projections(model: recipe_lib.Model) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield path within a layer, shape and number of inputs of each kernel."""
    d, h, n, k = model.embed_dim, model.head_dim, model.num_heads, model.num_kv_heads
    if n == k:
        yield "attn/qkv_einsum", (3, n, d, h), d
    else:
        yield "attn/q_einsum", (n, d, h), d
        yield "attn/kv_einsum", (2, k, d, h), d
    yield "attn/attn_vec_einsum", (n, h, d), n * h
    yield "mlp/gate_proj", (d, model.hidden_dim), d
    yield "mlp/up_proj", (d, model.hidden_dim), d
    yield "mlp/down_proj", (model.hidden_dim, d), model.hidden_dim


def capacity(recipe: recipe_lib.Recipe) -> Capacity | None:
    """Return the memory of this machine's devices.

    Args:
      recipe: Its mesh says over how many devices arrays are spread.

    Returns:
      The memory; `None` where no backend starts, or the device does not say and its kind is
      not known.
    """
    try:
        device = jax.local_devices()[0]
        stats = None if device.platform == "cpu" else device.memory_stats()
    except RuntimeError:
        return None
    if device.platform == "cpu":
        return Capacity(available_host_memory(), "this machine")
    spread = recipe.sharding.fsdp * recipe.sharding.tp
    limit = memory.from_stats(device.device_kind, stats).limit
    if limit is None:  # not every runtime reports it
        chip = hardware.chip_of(device.device_kind)
        if chip is None:
            return None
        limit = chip.hbm_bytes
    return Capacity(limit, f"a {device.device_kind}", spread)


def available_host_memory(cgroups: pathlib.Path = _CGROUPS) -> int:
    """Return the bytes that this process may still take, and what it holds already.

    Args:
      cgroups: Where the limits of the control group are, as a container sees them.

    Returns:
      The smaller of what the system has and what the control group allows.
    """
    found = [psutil.virtual_memory().available]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        # No such file, or the word max.
        with contextlib.suppress(OSError, ValueError):
            allowed = int((cgroups / limit).read_text())
            found.append(allowed - int((cgroups / used).read_text()) + _cached(cgroups, limit))
    return max(min(found), 0) + memory.process_memory()


def _cached(cgroups: pathlib.Path, limit: str) -> int:
    """Return the bytes of files that the control group holds and can give up."""
    with contextlib.suppress(OSError, ValueError):
        lines = (cgroups / limit).with_name("memory.stat").read_text().splitlines()
        stats = dict(line.split(maxsplit=1) for line in lines)
        return int(stats.get("total_inactive_file", stats.get("inactive_file", 0)))
    return 0


def problem(recipe: recipe_lib.Recipe, available: Capacity | None) -> str | None:
    """Return why a recipe cannot fit, `None` if it may.

    Args:
      recipe: What is to run.
      available: From `capacity`; `None` is never too little.

    Returns:
      A sentence with both figures and what would fit.
    """
    if available is None or _per_device(recipe, available) <= available.bytes:
        return None
    found = of(recipe)
    parts = ", ".join(
        f"{name} {_size(count // available.devices)}"
        for name, count in dataclasses.asdict(found).items()
        if count
    )
    each = f" on each of {available.devices} devices" if available.devices > 1 else ""
    return (
        f"the recipe needs at least {_size(_per_device(recipe, available))}{each} ({parts}; "
        f"activations come on top), {available.what} has {_size(available.bytes)}: "
        f"{_remedy(recipe, available)}"
    )


def least(recipe: recipe_lib.Recipe) -> str:
    """Return what a recipe certainly needs over all devices, as a person reads it."""
    return _size(of(recipe).total)


def check(recipe: recipe_lib.Recipe, available: Capacity | None) -> None:
    """Refuse a recipe that cannot fit.

    Args:
      recipe: What is to run.
      available: From `capacity`.

    Raises:
      HarnessError: It needs more memory than there is.
    """
    found = problem(recipe, available)
    if found is not None:
        raise errors.HarnessError(f"{found}; --force goes on all the same")


def _remedy(recipe: recipe_lib.Recipe, available: Capacity) -> str:
    """Return the smallest change that fits, as settings."""
    one_step = f"batching.train_micro_batch_size={recipe.batching.mini_batch_size}"
    adapted = f"critic.lora.rank={recipe.lora.rank}"
    for changes in (
        ["model.dtype=bfloat16"],
        [one_step],
        ["model.dtype=bfloat16", one_step],
        ["model.dtype=bfloat16", one_step, adapted],
    ):
        changed = recipe_lib.replace(recipe, *changes)
        needed = _per_device(changed, available)
        if changed != recipe and needed <= available.bytes:
            return f"set {_together(changes)}, which needs at least {_size(needed)}"
    return (
        "no setting of model.dtype, batching or critic.lora makes it fit, take a smaller model "
        "such as --preset tiny, or see what fits a chip by `python -m harness plan --chip NAME`"
    )


def _together(changes: Sequence[str]) -> str:
    *most, last = changes
    return f"{', '.join(most)} and {last}" if most else last


def _per_device(recipe: recipe_lib.Recipe, available: Capacity) -> int:
    return of(recipe).total // available.devices


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
