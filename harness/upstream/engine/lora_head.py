"""The value head of a critic by LoRA, trained beside the adapters.

Tunix asks `nnx.LoRAParam` for what it differentiates, optimizes, saves and restores in a model
that has adapters. A head that is to be trained whole is therefore made a variable of that kind.
"""

from collections.abc import Iterator

from flax import nnx
from tunix.sft import utils as sft_utils

# What Tunix's own critics call it: `GemmaWithScoreHead`, and `create_critic_model`.
_NAMES = ("score", "lm_head")


class TrainedHead(nnx.LoRAParam):
    """A weight that is trained whole, in a model whose other weights have adapters."""


def train_with_adapters(critic: nnx.Module) -> None:
    """Make the value head of a critic by LoRA a parameter that Tunix trains.

    Args:
      critic: Changed in place where it has adapters; one that has none is trained whole already.
    """
    if not sft_utils.is_lora_enabled(critic):
        return
    for module, name, weight in list(_head(critic)):
        trained = TrainedHead.from_metadata(weight.get_raw_value(), weight.get_metadata())
        setattr(module, name, trained)


def _head(critic: nnx.Module) -> Iterator[tuple[nnx.Module, str, nnx.Param]]:
    """Yield each frozen weight of the head, with the module that holds it and its name there."""
    for attribute in _NAMES:
        head = getattr(critic, attribute, None)
        if not isinstance(head, nnx.Module):
            continue
        for _, module in nnx.iter_modules(head):
            for name, value in vars(module).items():
                if isinstance(value, nnx.Param) and not isinstance(value, nnx.LoRAParam):
                    yield module, name, value
