import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import vanilla_rollout

from harness import accounting, data, models, pipeline, rewards, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.errors import HarnessError
from harness.upstream import learner as learner_lib
from harness.upstream import ledger, probes, rebind
from harness.upstream import rollout as rollout_lib
from tests.conftest import small_recipe

# An untrained policy rarely draws one end token among 512: many pieces end a
# completion here, so that rows end early, late and not at all.
MANY_ENDS = "rollout.end_tokens=" + str(
    ["<eos>", "<end_of_turn>", *(f"<0x{byte:02X}>" for byte in range(0x20, 0x60))]
)
ALL = ("reward-truncated", "end-token-dropped", "noise-repeats")


class Pieces:
    """A small learner, made with chosen mends."""

    def __init__(self, recipe: recipe_lib.Recipe, mends=(), reward_fn=None):
        self.recipe = recipe
        self.mesh = models.make_mesh(recipe.sharding)
        self.tokenizer = tokenizer_lib.load(recipe)
        self.dataset = data.load(recipe, self.tokenizer)
        self.policy = pipeline.make_policy(recipe, self.mesh)
        self.actor = models.apply_lora(self.policy, recipe.lora, self.mesh, recipe.seed)
        self.critic = models.make_critic(self.policy, self.mesh, recipe.seed)
        self.cluster = upstream.make_cluster(
            recipe,
            mesh=self.mesh,
            actor=self.actor,
            critic=self.critic,
            tokenizer=self.tokenizer,
            mends=mends,
        )
        self.learner = upstream.make_learner(
            recipe,
            cluster=self.cluster,
            reward_fn=reward_fn or rewards.build(recipe.reward),
            mends=mends,
        )
        self.end_ids = set(self.tokenizer.end_ids(recipe.rollout.end_tokens))


@pytest.fixture(scope="module")
def mended():
    pieces = Pieces(small_recipe(MANY_ENDS), ALL, lambda prompts, **_: [0.5, -0.25, 1.9, 1e-3])
    yield pieces
    upstream.release(pieces.learner)


@pytest.fixture(scope="module")
def stock():
    pieces = Pieces(small_recipe(MANY_ENDS))
    yield pieces
    upstream.release(pieces.learner)


def prompts(pieces: Pieces) -> dict[str, np.ndarray]:
    batch: Any = pieces.dataset.train[0]
    return {name: column[:4] for name, column in batch.items()}


@pytest.fixture(scope="module")
def example(mended):
    return upstream.generate_example(mended.learner, prompts(mended))


def test_the_supported_releases_are_those_that_pip_may_install():
    assert ledger.installed_version() in upstream.SUPPORTED


def test_every_defect_is_found_in_this_release_and_named_in_the_ledgers_order():
    assert upstream.present() == ALL
    assert upstream.mends("mended") == ALL
    assert upstream.mends("stock") == ()


def test_ledger_entries_say_all_that_a_reader_needs():
    assert [defect.id for defect in upstream.DEFECTS] == list(ALL)
    for defect in upstream.DEFECTS:
        for text in (defect.title, defect.effect, defect.mend):
            assert text.endswith(".")
        assert defect.where.startswith("tunix/")


@pytest.mark.parametrize("defect", upstream.DEFECTS, ids=lambda defect: defect.id)
def test_a_ledger_line_number_points_at_the_defect(defect):
    import pathlib

    import tunix

    if upstream.installed_version() != "0.1.7":
        pytest.skip("the ledger's lines are those of 0.1.7")
    name, line = defect.where.split(":")
    text = (pathlib.Path(tunix.__file__).parents[1] / name).read_text().splitlines()
    telling = {
        "reward-truncated": "zeros_like",
        "end-token-dropped": "np_find_first_eos_idx",
        "noise-repeats": "PRNGKey(0)",
    }
    assert telling[defect.id] in text[int(line) - 1]


def test_a_probe_is_silent_once_the_reward_tensor_is_float(monkeypatch):
    method = learner_lib.FloatRewardLearner._generate_and_compute_advantage
    monkeypatch.setattr(ppo_learner.PPOLearner, "_generate_and_compute_advantage", method)
    assert not probes.rewards_truncated()


def test_a_probe_is_silent_once_the_end_token_is_kept(monkeypatch):
    monkeypatch.setattr(
        sampler_lib.Sampler, "__call__", rollout_lib.EndTokenSampler.__dict__["__call__"]
    )
    assert not probes.end_token_dropped()


def test_a_probe_is_silent_once_noise_is_fresh(monkeypatch):
    keys = iter(jax.random.split(jax.random.PRNGKey(0), 9))
    plain = vanilla_rollout.VanillaRollout.generate

    def seeded(self, texts, config):
        config.seed = next(keys)
        return plain(self, texts, config)

    monkeypatch.setattr(vanilla_rollout.VanillaRollout, "generate", seeded)
    assert not probes.noise_repeats()


def test_stock_is_tunix_exactly_as_installed(stock):
    assert type(stock.learner) is ppo_learner.PPOLearner
    assert type(stock.cluster.rollout) is vanilla_rollout.VanillaRollout
    assert type(stock.cluster.rollout._sampler) is sampler_lib.Sampler


def test_mends_leave_upstreams_own_classes_alone(mended):
    assert type(mended.learner) is not ppo_learner.PPOLearner
    assert upstream.present() == ALL


def test_a_mended_completion_ends_with_the_end_token_and_its_text_does_not(mended, stock):
    def generate(pieces):
        config = pieces.cluster.cluster_config.rollout_config
        config = type(config)(**{**vars(config), "seed": jax.random.PRNGKey(3)})
        with pieces.mesh:
            return pieces.cluster.rollout.generate(list(prompts(pieces)["prompts"]) * 4, config)

    long, short = generate(mended), generate(stock)
    assert list(long.text) == list(short.text)
    ended = 0
    for kept, cut in zip(long.tokens, short.tokens, strict=True):
        assert not mended.end_ids & set(cut.tolist())
        if len(cut) < mended.recipe.rollout.max_new_tokens:
            assert kept[-1] in mended.end_ids
            assert kept[:-1].tolist() == cut.tolist()
            ended += 1
        else:
            assert kept.tolist() == cut.tolist()
    assert 0 < ended < len(long.tokens)


def test_noise_differs_between_generations_and_not_between_runs(mended):
    texts = list(prompts(mended)["prompts"])
    config = mended.cluster.cluster_config.rollout_config
    worker = mended.cluster.rollout

    def generate():
        with mended.mesh:
            return [tuple(row.tolist()) for row in worker.generate(texts, config).tokens]

    calls = worker.calls
    first, second = generate(), generate()
    worker.calls = calls
    again = generate()
    assert first != second
    assert first == again


def test_stock_noise_repeats(stock):
    texts = list(prompts(stock)["prompts"])
    config = stock.cluster.cluster_config.rollout_config
    with stock.mesh:
        runs = [stock.cluster.rollout.generate(texts, config).tokens for _ in range(2)]
    assert [row.tolist() for row in runs[0]] == [row.tolist() for row in runs[1]]


def test_fractional_and_negative_rewards_reach_the_returns(example):
    # With gamma = lambda = 1 the return of every token is the reward of its row.
    mask = np.asarray(example.completion_mask)
    returns = np.asarray(example.returns)
    for row, reward in enumerate([0.5, -0.25, 1.9, 1e-3]):
        np.testing.assert_allclose(returns[row][mask[row]], reward, atol=1e-5)


def test_stock_cuts_fractional_rewards(stock, monkeypatch):
    monkeypatch.setattr(
        stock.learner, "_compute_rewards", lambda **_: np.array([0.5, -0.25, 1.9, 1e-3])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the defect's own trace
        found = upstream.generate_example(stock.learner, prompts(stock))
    last = np.asarray(found.completion_mask).sum(axis=1) - 1
    np.testing.assert_allclose(
        np.asarray(found.returns)[np.arange(4), last], [0.0, 0.0, 1.0, 0.0], atol=1e-5
    )


def test_an_example_has_the_recipes_shapes(example, mended):
    rows, rollout = 4, mended.recipe.rollout
    assert example.prompt_ids.shape == (rows, rollout.max_prompt_length)
    for name in (
        "completion_ids",
        "completion_mask",
        "advantages",
        "returns",
        "old_values",
        "old_per_token_logps",
    ):
        assert getattr(example, name).shape == (rows, rollout.max_new_tokens), name


def test_a_step_moves_every_lora_pair_and_the_critic_and_nothing_of_the_base(mended, example):
    def snapshot(model, kind):
        return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, kind)))

    base = snapshot(mended.actor, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)))
    lora = models.lora_weights(mended.actor)
    critic = snapshot(mended.critic, nnx.Param)
    # Two gradients make a step. The first step has learning rate 0; a LoRA's
    # first factor moves once its second has.
    for _ in range(6):
        upstream.train_on(mended.learner, example)
    after = snapshot(mended.actor, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)))
    jax.tree.map(np.testing.assert_array_equal, base, after)
    moved = models.lora_weights(mended.actor)
    assert [name for name in lora if np.array_equal(lora[name], moved[name])] == []
    still = jax.tree.map(np.array_equal, critic, snapshot(mended.critic, nnx.Param))
    assert not any(jax.tree.leaves(still))


def test_the_mended_worker_and_the_plain_one_take_foreign_tokenizers(mended):
    class Foreign:
        """Shows end tokens in its text, as a plain SentencePiece model does."""

        def encode(self, text):
            return mended.tokenizer.encode(text)

        def decode(self, ids):
            return " ".join(map(str, ids))

        def bos_id(self):
            return mended.tokenizer.bos_id()

        def eos_id(self):
            return mended.tokenizer.eos_id()

        def pad_id(self):
            return mended.tokenizer.pad_id()

    worker = rollout_lib.MendedRollout(
        mended.actor,
        Foreign(),
        mended.mesh,
        mended.cluster.cluster_config.rollout_config,
        keep_end_token=True,
        fresh_noise=True,
        seed=0,
    )
    config = mended.cluster.cluster_config.rollout_config
    with mended.mesh:
        found = worker.generate(list(prompts(mended)["prompts"]) * 4, config)
    ends = {str(each) for each in mended.end_ids}
    assert any(row[-1] in mended.end_ids for row in found.tokens)
    assert not any(ends & set(text.split()) for text in found.text)


def test_rebinding_a_name_that_is_not_looked_up_fails():
    def double(x):
        return jnp.add(x, x)

    assert rebind.rebind(double, jnp=np)(2) == 4
    with pytest.raises(AttributeError, match="does not look up 'nothing'"):
        rebind.rebind(double, nothing=1)
    with pytest.raises(AttributeError):
        rebind.Overlay(jnp, no_such_function=1)


def test_counts_of_a_real_run_are_the_accounts():
    """Accumulation over micro-batches, two whitening groups, and a limit overshot."""
    recipe = small_recipe()
    pieces = Pieces(recipe, ALL)
    whitened, rolled = [], []

    def count(prompts, completions, advantages, **_):
        rolled.append(len(prompts))
        whitened.append(len(advantages))
        return {}

    learner: Any = pieces.learner
    learner.metric_fns.append(count)
    pieces.learner.train(pieces.dataset.train)
    upstream.release(pieces.learner)
    said = accounting.account(recipe)
    assert pieces.cluster.actor_trainer.train_steps == said.optimizer_steps
    assert pieces.cluster.critic_trainer.train_steps == said.optimizer_steps
    assert said.optimizer_steps > said.max_steps
    worker: Any = pieces.cluster.rollout
    assert worker.calls == said.generations
    assert sum(rolled) == said.rollouts < len(pieces.dataset.train) * recipe.batching.batch
    assert tuple(whitened) == said.whitening_groups * (len(whitened) // len(said.whitening_groups))
    assert pieces.cluster.actor_trainer.iter_steps == (
        said.optimizer_steps * said.gradient_accumulation
    )


def _fresh_actor(recipe: recipe_lib.Recipe):
    mesh = models.make_mesh(recipe.sharding)
    policy = pipeline.make_policy(recipe, mesh)
    return models.apply_lora(policy, recipe.lora, mesh, recipe.seed)


def test_a_folder_without_checkpoints_is_refused(recipe, tmp_path):
    assert upstream.saved_steps(tmp_path) == []
    with pytest.raises(HarnessError, match="holds no checkpoint: train first"):
        upstream.restore_actor(_fresh_actor(recipe), tmp_path)
