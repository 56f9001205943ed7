"""Override one fixture; all that is made from it follows."""

import pytest

from harness import recipe as recipe_lib


@pytest.fixture
def ppo_recipe() -> recipe_lib.Recipe:
    """The tiny recipe with smaller LoRA factors and a batch of eight problems."""
    return recipe_lib.load(
        "tiny",
        assignments=[
            "lora.rank=4",
            *(
                f"batching.{name}=8"
                for name in ("rollout_batch_size", "mini_batch_size", "train_micro_batch_size")
            ),
            *(
                f"batching.{name}=8"
                for name in ("rollout_micro_batch_size", "compute_logps_micro_batch_size")
            ),
        ],
    )
