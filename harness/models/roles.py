"""Actor and critic as a recipe asks for them."""

import jax
from flax import nnx
from tunix.models.gemma3 import model as gemma3

from harness import recipe as recipe_lib
from harness.models import critic as critic_lib
from harness.models import gemma
from harness.models import lora as lora_lib


def build_actor(
    recipe: recipe_lib.Recipe, policy: gemma3.Gemma3, mesh: jax.sharding.Mesh
) -> gemma3.Gemma3:
    """Build the actor of a recipe.

    Args:
      recipe: `lora`, `precision` and `seed` count.
      policy: The model before LoRA; its arrays are shared with the result.
      mesh: Devices to lay the factors over.

    Returns:
      The policy with LoRA.
    """
    dtype = recipe.precision.trained_dtype
    return lora_lib.apply_lora(policy, recipe.lora, mesh, recipe.seed, dtype=dtype)


def build_critic(
    recipe: recipe_lib.Recipe, policy: gemma3.Gemma3, mesh: jax.sharding.Mesh
) -> critic_lib.GemmaCritic:
    """Build the critic of a recipe.

    Args:
      recipe: `critic`, `precision` and `seed` count.
      policy: The model before LoRA; a critic by LoRA shares its arrays.
      mesh: Devices to lay over what is new.

    Returns:
      The critic.
    """
    return critic_lib.make_critic(
        policy,
        mesh,
        recipe.seed,
        lora=recipe.critic.lora,
        dtype=recipe.precision.trained_dtype,
    )


def build_abstract(
    recipe: recipe_lib.Recipe, mesh: jax.sharding.Mesh
) -> tuple[gemma3.Gemma3, gemma3.Gemma3, critic_lib.GemmaCritic]:
    """Build policy, actor and critic by shapes alone, as they lie on a mesh.

    Args:
      recipe: Shapes, dtypes, LoRA.
      mesh: Devices, which need not exist.

    Returns:
      The three, with `jax.ShapeDtypeStruct`s in place of weights; what would be one array is one
      object.
    """
    dtype = recipe.precision.trained_dtype
    policy = gemma.lay_over(gemma.abstract_gemma(recipe.model), mesh)
    shared = gemma.unflatten(gemma.weights_of(policy))
    actor = gemma.lay_over(lora_lib.abstract_lora(policy, recipe.lora, dtype), mesh)
    nnx.update(actor, shared)
    lora = recipe.critic.lora
    critic = gemma.lay_over(critic_lib.abstract_critic(policy, lora=lora, dtype=dtype), mesh)
    if lora is not None:
        nnx.update(critic.backbone, shared)
    return policy, actor, critic
