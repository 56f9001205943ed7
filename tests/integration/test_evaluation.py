import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.sft import utils as sft_utils

from harness import data, evaluation, models, rewards, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from tests.conftest import small_recipe

ANSWERS = ["7", "12", "-3", "1234", "5"]
# Hand-labelled: what was written, whether it is right, whether it is well-formed.
LABELLED = [
    ("\n#### 7", True, True),
    ("#### 13", False, True),
    ("so -3 it is: #### -3", True, True),
    ("#### 1,234", True, True),
    ("five", False, False),
]


def batches(size: int) -> list[dict[str, np.ndarray]]:
    return [
        {
            "prompts": np.array([f"prompt {row}" for row in rows]),
            "question": np.array([f"question {row}" for row in rows]),
            "answer": np.array([ANSWERS[row] for row in rows]),
        }
        for rows in np.array_split(np.arange(len(ANSWERS)), range(size, len(ANSWERS), size))
    ]


def labelled(prompts, generation, key):
    del generation, key
    texts = [LABELLED[int(prompt.split()[1])][0] for prompt in prompts]
    return texts, [len(text.split()) for text in texts]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_hand_labelled_table_is_scored_exactly_whatever_the_batches(size):
    recipe = recipe_lib.replace(
        small_recipe(),
        f"batching.rollout_batch_size={size}",
        *(
            f"batching.{name}=1"
            for name in (
                "mini_batch_size",
                "train_micro_batch_size",
                "rollout_micro_batch_size",
                "compute_logps_micro_batch_size",
            )
        ),
    )
    found = evaluation.evaluate(recipe, labelled, batches(size), stage="here")
    assert (found.accuracy, found.format_accuracy, found.total) == (3 / 5, 4 / 5, 5)
    assert [(s.completion, s.score == 1.0, (s.score or 0) > 0) for s in found.samples] == LABELLED
    assert [s.index for s in found.samples] == list(range(5))
    assert {s.stage for s in found.samples} == {"here"}
    assert [s.answer for s in found.samples] == ANSWERS


def test_a_problem_counts_once_if_any_pass_is_right():
    recipe = recipe_lib.replace(small_recipe(), "evaluation.passes=3")
    calls = []

    def second_time_lucky(prompts, generation, key):
        del generation
        calls.append(jax.device_get(key).tolist())
        good = len(calls) == 2
        return [f"#### {ANSWERS[int(p.split()[1])]}" if good else "?" for p in prompts], [1] * len(
            prompts
        )

    found = evaluation.evaluate(recipe, second_time_lucky, batches(8))
    assert (found.accuracy, found.format_accuracy, found.total) == (1.0, 1.0, 5)
    assert len(found.samples) == 15
    assert [s.completion_pass for s in found.samples] == [0] * 5 + [1] * 5 + [2] * 5
    assert len({tuple(key) for key in calls}) == 3, "passes must not share noise"


def test_batches_do_not_share_noise_and_it_repeats_run_by_run():
    def keys():
        seen = []

        def generate(prompts, generation, key):
            del generation
            seen.append(tuple(jax.device_get(key).tolist()))
            return ["?"] * len(prompts), [1] * len(prompts)

        evaluation.evaluate(small_recipe(), generate, batches(2))
        return seen

    first = keys()
    assert len(set(first)) == len(first) == 3
    assert keys() == first


@pytest.mark.parametrize("name", ["greedy", "standard", "liberal"])
def test_the_recipes_way_to_generate_is_the_one_used(name):
    recipe = recipe_lib.replace(small_recipe(), f"evaluation.generation={name}")
    used = []

    def generate(prompts, generation, key):
        del key
        used.append(generation)
        return ["?"] * len(prompts), [1] * len(prompts)

    evaluation.evaluate(recipe, generate, batches(8))
    assert used == [recipe.evaluation.generations[name]]


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (3, 10), (10, 10), (333, 512)])
def test_the_interval_is_wilsons(hits, total):
    z, share = 1.959963984540054, hits / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    assert evaluation.interval(hits, total) == pytest.approx((middle - half, middle + half))


@pytest.fixture(scope="module")
def answering():
    recipe = small_recipe()
    mesh = models.make_mesh(recipe.sharding)
    tokenizer = tokenizer_lib.load(recipe)
    actor = models.apply_lora(models.make_policy(recipe, mesh), recipe.lora, mesh, 0)
    return recipe, actor, upstream.Generator(recipe, actor, tokenizer, mesh), tokenizer


def unequal_prompts(recipe) -> list[str]:
    words = [
        "a",
        "Tom has 3",
        "Ann had 2 pens and got 4 more.",
        "9 + 1",
        "Zoe",
        "8 eggs, 7",
        "x",
        "=",
    ]
    return [data.format_prompt(recipe.data, word) for word in words]


def test_prompts_of_unequal_length_answer_in_a_batch_as_alone(answering):
    recipe, _, generate, tokenizer = answering
    greedy = recipe.evaluation.generations["greedy"]
    together = unequal_prompts(recipe)
    assert len({len(tokenizer.encode(prompt)) for prompt in together}) > 3
    texts, counts = generate(together, greedy, jax.random.PRNGKey(0))
    turned, _ = generate(together[::-1], greedy, jax.random.PRNGKey(1))
    assert turned[::-1] == texts
    for row, prompt in enumerate(together):
        alone, count = generate([prompt] * len(together), greedy, jax.random.PRNGKey(2))
        assert set(alone) == {texts[row]}
        assert set(count) == {counts[row]}


def test_evaluation_changes_nothing_of_the_model(answering):
    recipe, actor, generate, _ = answering
    before = jax.tree.map(np.array, models.lora_weights(actor))
    generate(
        unequal_prompts(recipe), recipe.evaluation.generations["standard"], jax.random.PRNGKey(0)
    )
    for name, factor in models.lora_weights(actor).items():
        assert np.array_equal(factor, before[name]), name


def test_the_generator_sees_weights_that_are_given_later(answering):
    recipe, actor, generate, _ = answering
    greedy = recipe.evaluation.generations["greedy"]
    prompts = unequal_prompts(recipe)
    before = generate(prompts, greedy, jax.random.PRNGKey(0))
    kernel = actor.layers[1].mlp.down_proj.kernel_lora_b
    old = kernel[...]
    kernel[...] = jax.random.normal(jax.random.PRNGKey(5), old.shape)
    after = generate(prompts, greedy, jax.random.PRNGKey(0))
    kernel[...] = old
    assert generate(prompts, greedy, jax.random.PRNGKey(0)) == before
    assert after != before


def test_greedy_is_the_likeliest_token_of_a_full_forward_pass(answering):
    recipe, actor, generate, tokenizer = answering
    prompt = unequal_prompts(recipe)[2]
    texts, counts = generate(
        [prompt] * 8, recipe.evaluation.generations["greedy"], jax.random.PRNGKey(0)
    )
    ends = set(tokenizer.end_ids(recipe.rollout.stop_tokens))
    ids = [tokenizer.bos_id(), *tokenizer.encode(prompt)]
    start, width = len(ids), recipe.rollout.cache_size

    @nnx.jit
    def forward(model, row, positions):
        return model(row, positions, None, sft_utils.make_causal_attn_mask(row != 0))[0]

    for _ in range(recipe.rollout.max_new_tokens):
        row = jnp.asarray([[*ids, *[0] * (width - len(ids))]])
        positions = jnp.minimum(jnp.arange(width), len(ids) - 1)[None]
        logits = forward(actor, row, positions)
        ids.append(int(jnp.argmax(logits[0, len(ids) - 1])))
        if ids[-1] in ends:
            break
    written = [token for token in ids[start:] if token not in ends]
    assert texts[0] == tokenizer.decode(written)
    assert counts[0] == len(written)


def polite(prompts, generation, key):
    """The labelled answers, each followed by 400 characters of politeness."""
    texts, tokens = labelled(prompts, generation, key)
    return [f"{text} {'Thank you. ' * 37}" for text in texts], tokens


def scores_of(found: evaluation.Evaluation) -> list[float | None]:
    return [sample.score for sample in found.samples]


@pytest.mark.parametrize(
    ("assignments", "generate", "accuracy", "scores"),
    [
        ([], labelled, 3 / 5, [1.0, 0.1, 1.0, 1.0, 0.0]),
        ([], polite, 0.0, [0.0] * 5),
        (["reward.clip_chars=4000"], polite, 3 / 5, [1.0, 0.1, 1.0, 1.0, 0.0]),
        (["reward.clip_chars=4000", "evaluation.rule=reference"], polite, 0.0, [0.0] * 5),
        (["reward.correct=10"], labelled, 3 / 5, [10.0, 0.1, 10.0, 10.0, 0.0]),
        (
            ["reward.correct=10", "evaluation.rule=reference"],
            labelled,
            3 / 5,
            [1.0, 0.1, 1.0, 1.0, 0.0],
        ),
        (
            ["reward.correct=5.0", "reward.format=-1.0"],
            labelled,
            3 / 5,
            [5.0, -1.0, 5.0, 5.0, 0.0],
        ),
        # Right and well-formed are distinguished where both are worth the same.
        (["reward.format=1.0"], labelled, 3 / 5, [1.0, 1.0, 1.0, 1.0, 0.0]),
    ],
)
def test_what_is_measured_is_what_is_trained_for_unless_said_otherwise(
    assignments, generate, accuracy, scores
):
    recipe = recipe_lib.replace(small_recipe(), *assignments)
    found = evaluation.evaluate(recipe, generate, batches(8))
    assert found.accuracy == accuracy
    assert found.format_accuracy == (4 / 5 if any(scores) else 0.0)
    assert scores_of(found) == scores
    if recipe.evaluation.rule is None:
        texts, _ = generate([f"prompt {row}" for row in range(5)], None, None)
        trained_for = rewards.build(recipe.reward)([""] * 5, texts, answer=ANSWERS)
        assert scores_of(found) == trained_for


def by_length(prompts, completions, *, answer, question, mode):
    """A function of the user's own: what it is called with, and what its scores mean."""
    assert mode == "eval"
    assert [str(each) for each in question] == [f"question {each.split()[1]}" for each in prompts]
    assert {str(each) for each in answer} <= set(ANSWERS)
    return [{"five": float("nan")}.get(text, len(text) / 10) for text in completions]


def test_a_function_of_the_users_own_is_the_rule_too():
    recipe = recipe_lib.replace(
        small_recipe(), "reward.function=tests.integration.test_evaluation:by_length"
    )
    found = evaluation.evaluate(recipe, labelled, batches(2))
    lengths = [len(text) / 10 for text, *_ in LABELLED]
    assert scores_of(found) == [*lengths[:4], None]
    assert found.accuracy == sum(each >= 1.0 for each in lengths[:4]) / 5
    assert found.format_accuracy == 4 / 5
    by_reference = recipe_lib.replace(recipe, "evaluation.rule=reference")
    assert evaluation.evaluate(by_reference, labelled, batches(2)).accuracy == 3 / 5


def breaks_on_the_third(prompts, completions, **columns):
    del prompts, columns
    return [1.0 if "-3" not in text else 1 / 0 for text in completions]


def test_a_function_that_fails_in_evaluation_names_the_problems():
    name = "tests.integration.test_evaluation:breaks_on_the_third"
    recipe = recipe_lib.replace(small_recipe(), f"reward.function={name}")
    with pytest.raises(evaluation.ScoringFailedError, match="ZeroDivisionError") as failed:
        evaluation.evaluate(recipe, labelled, batches(2))
    assert failed.value.problems == (2, 3)
    assert list(failed.value.batch["completions"]) == [text for text, *_ in LABELLED[2:4]]
