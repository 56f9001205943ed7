"""The entries of the ledger: what is wrong in the PPO of google-tunix.

`harness.upstream.ledger` says how they are used.
"""

import dataclasses
from collections.abc import Callable

from harness.upstream import probes


@dataclasses.dataclass(frozen=True)
class Defect:
    """One entry.

    Attributes:
      id: Short name, used in results.
      title: What is wrong, in a line.
      where: File and line in the last of `releases`.
      effect: What it does to learning, or to whom runs it.
      mend: How it is corrected here, at the seam, if it is.
      probe: Runs upstream's code and tells whether the defect is there; a mend
        is put in place only then.
      shown_by: Ids of the properties that it breaks; none if only its
        reproduction shows it.
      releases: Supported releases of Tunix that have it.
      engine: Whether the engine of this harness never meets it, so that there is no fix to
        choose: what it takes is needed whatever is fixed.
      fixed_with: Id of the issue whose fix corrects this one too; None if it has its own.
    """

    id: str
    title: str
    where: str
    effect: str
    mend: str | None = None
    probe: Callable[[], bool] | None = None
    shown_by: tuple[str, ...] = ()
    releases: tuple[str, ...] = ("0.1.6", "0.1.7")
    engine: bool = False
    fixed_with: str | None = None

    @property
    def fix(self) -> str:
        """Id of the issue that its fix is named after."""
        return self.fixed_with or self.id


DEFECTS: tuple[Defect, ...] = (
    Defect(
        id="reward-truncated",
        title="Fractional rewards are cut to integers.",
        where="tunix/rl/ppo/ppo_learner.py:353",
        effect=(
            "The reward tensor is made like the token ids, int32: the recipe's 0.1 for a "
            "well-formed answer becomes 0, while the logged score still shows 0.1."
        ),
        mend="The learner's reward tensor is float32.",
        probe=probes.rewards_truncated,
        shown_by=("returns", "advantages", "logged-figures"),
    ),
    Defect(
        id="end-token-dropped",
        title="The end token is cut from the completion before training.",
        where="tunix/generate/sampler.py:945",
        effect=(
            "The choice to stop has no log-probability, value or gradient, and its reward "
            "lands on the token before it: a policy that stops too early is never told."
        ),
        mend="The rollout keeps the end token that was drawn; the text has none, as before.",
        probe=probes.end_token_dropped,
        shown_by=("completions-end", "greedy"),
    ),
    Defect(
        id="noise-repeats",
        title="Every generation draws the same noise.",
        where="tunix/generate/sampler.py:836",
        effect=(
            "Without a seed in the rollout configuration each call uses PRNGKey(0), so row i "
            "of every batch sees one fixed noise sequence and exploration is correlated."
        ),
        mend="Each generation's key is the run's seed folded with the number of the call.",
        probe=probes.noise_repeats,
        shown_by=("noise-is-fresh",),
    ),
    Defect(
        id="log-prob-temperature",
        title="Rollouts are drawn at a temperature, their log-probs are taken at 1.",
        where="tunix/rl/rollout/vanilla_rollout.py:82",
        effect=(
            "The ratio is of two policies neither of which drew the tokens, so the estimate of "
            "the gradient is biased at every temperature but 1."
        ),
        mend="Old and current log-probs and the entropy are taken at the rollout's temperature.",
        probe=probes.log_probs_without_temperature,
        shown_by=(
            "padding-is-invisible",
            "old-log-probs",
            "pad-is-no-token",
            "policy-loss",
            "policy-loss-plain",
            "degenerate-batches",
            "losses",
            "slopes",
        ),
    ),
    Defect(
        id="reference-temperature",
        title="Reference log-probs are taken at the rollout's temperature, the policy's at 1.",
        where="tunix/rl/rl_cluster.py:1005",
        effect=(
            "Two equal policies have a divergence (0.07 to 0.12 nats a token at 0.7), which beta "
            "charges as a penalty on being likely at all."
        ),
        mend="As log-prob-temperature: both are then at the rollout's temperature.",
        probe=probes.reference_at_another_temperature,
        shown_by=("divergence",),
        releases=("0.1.7",),
        fixed_with="log-prob-temperature",
    ),
    Defect(
        id="reference-without-temperature",
        title="Reference log-probs are taken at 1, whatever the rollout's temperature.",
        where="tunix/rl/inference/inference_worker.py:63",
        effect=(
            "As log-prob-temperature: the divergence is that of two policies neither of which "
            "drew the tokens."
        ),
        mend="They are taken at the rollout's temperature.",
        probe=probes.reference_without_temperature,
        shown_by=("reference-log-probs", "divergence"),
        releases=("0.1.6",),
    ),
    Defect(
        id="whitening-group",
        title="Advantages are whitened over a rollout group, not over the mini-batch.",
        where="tunix/rl/rl_learner.py:562",
        effect=(
            "The group is the least common multiple of two micro-batch sizes meant for speed: "
            "groups of one sequence learn nothing, groups of four lose what they have in common."
        ),
        mend="Advantages are computed once a mini-batch is generated.",
        probe=probes.whitened_in_groups,
        shown_by=("advantages", "logged-figures"),
    ),
    Defect(
        id="micro-batch-token-mean",
        title="Losses are token means of each micro-batch, which then count alike.",
        where="tunix/rl/algo_core.py:246",
        effect=(
            "A token of a short completion weighs more than one of a long one, by how the "
            "mini-batch was cut: relative gradient error 0.07 to 0.53 over lengths 1 to 12."
        ),
        mend="The loss of a micro-batch is weighed by its share of the mini-batch's tokens.",
        probe=probes.micro_batches_count_alike,
        shown_by=("losses", "slopes"),
    ),
    Defect(
        id="mini-batch-off-policy",
        title="Each mini-batch is generated after the update of the one before.",
        where="tunix/rl/rl_learner.py:644",
        effect=(
            "A rollout batch of 16 with mini-batches of 8 is two batches of 8, each on-policy: "
            "the batch size of the recipe is not the one that is generated, and no call of the "
            "sampler can take more rows than a mini-batch has. The tiny recipe, 100 batches of 64 "
            "in mini-batches of 16, seeds 0 to 2: accuracy 0.303, 0.383, 0.344 becomes 0.734, "
            "0.592, 0.623, and 0.766, 0.689, 0.693 with the fix (measured on a CPU)."
        ),
        mend=(
            "A batch is sampled, scored and whitened as one; then each epoch cuts it anew, row by "
            "row, into mini-batches and micro-batches."
        ),
        probe=probes.mini_batches_are_sampled_apart,
        shown_by=("one-policy-per-batch", "schedule", "passes-are-shuffled", "resume-data"),
    ),
    Defect(
        id="resume-skips-data",
        title="A resume skips each micro-batch as often as there are PPO epochs.",
        where="tunix/rl/rl_learner.py:132",
        effect="With two epochs a resumed run leaves out as much data as it had used.",
        mend="The position is divided by the epochs.",
        probe=probes.resume_skips_epochs,
        shown_by=("resume-data", "resume-equals-going-on"),
        engine=True,
    ),
    Defect(
        id="last-checkpoint-no-metadata",
        title="The last checkpoint does not say which global step it is of.",
        where="tunix/sft/peft_trainer.py:760",
        effect="A run that goes on from it counts its global steps from 0 again.",
        mend="It is saved with the metadata of every other checkpoint, and the right step.",
        probe=probes.last_checkpoint_is_bare,
        shown_by=("restored-state",),
        engine=True,
    ),
    Defect(
        id="seed-array-donated",
        title="A seed given as a jax.Array fails at the second generation.",
        where="tunix/generate/sampler.py:835",
        effect="The documented type of the seed ends the run at its second batch.",
        mend="The sampler is given a copy to donate.",
        probe=probes.seed_is_given_away,
        shown_by=("seeds-are-kept",),
        releases=("0.1.7",),
    ),
    Defect(
        id="decode-one-too-many",
        title="Decoding takes one step past the limit of tokens.",
        where="tunix/generate/sampler.py:691",
        effect="One forward pass of the policy is wasted whenever a row reaches the limit.",
        mend="The loop ends with the last token that is kept.",
        probe=probes.decodes_past_the_limit,
        shown_by=("decode-stops",),
    ),
    Defect(
        id="pad-mid-sequence",
        title="A pad that the policy draws is masked and shifts all that follows.",
        where="tunix/rl/common.py:256",
        effect=(
            "Log-probs and values of the rest of the row are of another sequence than the one "
            "drawn: up to 1.9 nats."
        ),
        mend="A pad that was drawn ends its row.",
        probe=probes.pad_shifts_positions,
        shown_by=("completions-end", "decode-stops", "greedy", "pad-is-no-token"),
        releases=("0.1.7",),
    ),
    Defect(
        id="pad-not-trained",
        title="A pad that the policy draws is no token to the learner.",
        where="tunix/rl/ppo/ppo_learner.py:277",
        effect=(
            "The choice has no part in the loss, and the reward of its row lands a token early "
            "for each such pad."
        ),
        mend="A pad that was drawn ends its row.",
        probe=probes.pad_is_not_trained,
        shown_by=("completions-end", "decode-stops", "greedy"),
        releases=("0.1.6",),
    ),
    Defect(
        id="whiten-one-token",
        title="A group with one real token has advantages of NaN.",
        where="tunix/rl/algo_core.py:156",
        effect="Bessel's correction divides by zero; one such group ends all learning.",
        mend="Its advantage is 0, as of a set without spread.",
        probe=probes.one_token_is_not_finite,
        shown_by=("gae-one-token",),
    ),
    Defect(
        id="masked-gradient-nan",
        title="A log-prob at a masked place can make the gradient NaN.",
        where="tunix/rl/algo_core.py:214",
        effect="The ratio overflows there; the loss is finite and the next weights are NaN.",
        mend="Masked places are set to 0 before the loss.",
        probe=probes.masked_log_prob_spoils_gradient,
        shown_by=("masked-garbage-does-not-count",),
        fixed_with="masked-nan-leaks",
    ),
    Defect(
        id="masked-nan-leaks",
        title="NaN at a masked place leaks into advantages and losses.",
        where="tunix/rl/algo_core.py:137",
        effect="A product with a mask of 0 is NaN: one bad pad spoils the batch.",
        mend="Masked places are set to 0 before the estimator and the losses.",
        probe=probes.masked_nan_leaks,
        shown_by=("masked-nan-does-not-count", "gae-masked"),
    ),
    Defect(
        id="top-p-none-greedy",
        title="top_p=None means greedy, whatever the temperature.",
        where="tunix/generate/sampler.py:443",
        effect="Rollouts of a row are all alike: no exploration, and nothing says so.",
        mend="None keeps the whole distribution.",
        probe=probes.top_p_none_is_greedy,
        shown_by=("top-p-none",),
    ),
    Defect(
        id="epsilon-zero-ignored",
        title="A clip bound of 0 becomes the default one.",
        where="tunix/rl/ppo/ppo_learner.py:101",
        effect="A side that was to be closed is open by epsilon.",
        mend="The bound is set after the configuration is made.",
        probe=probes.epsilon_zero_is_ignored,
        shown_by=("policy-loss-plain",),
    ),
    Defect(
        id="eval-rollout-config-unused",
        title="A rollout configuration for evaluation is never used.",
        where="tunix/rl/ppo/ppo_learner.py:262",
        effect="Validation samples as training does; its figures are of another policy.",
        mend="Generation is told what it is for.",
        probe=probes.eval_config_unused,
        shown_by=("eval-config",),
    ),
    Defect(
        id="sampler-log-probs-full-softmax",
        title="The sampler's own log-probs are not of the distribution it draws from.",
        where="tunix/generate/sampler.py:147",
        effect="Under top-k or top-p they are too low; PPO does not use them.",
        shown_by=("sampler-tells-its-law",),
        releases=("0.1.7",),
    ),
    Defect(
        id="sampler-log-probs-missing",
        title="The rollout worker hands on no log-probs, whatever return_logprobs says.",
        where="tunix/rl/rollout/vanilla_rollout.py:69",
        effect="Nothing tells how far the trainer's policy is from the one that drew the tokens.",
        shown_by=("cached-decode", "pad-is-no-token", "sampler-tells-its-law"),
        releases=("0.1.6",),
    ),
    Defect(
        id="nucleus-beside-top-k",
        title="top_p counts the mass of all tokens, those that top_k leaves out too.",
        where="tunix/generate/sampler.py:126",
        effect="With both set, more tokens are drawn than a nucleus of what top_k leaves.",
        shown_by=("draws-follow-the-law",),
        releases=("0.1.6",),
    ),
    Defect(
        id="lengths-compile",
        title="Each new length of a completion compiles a program.",
        where="tunix/generate/sampler.py:824",
        effect="The first batches are held up by as many programs as there are lengths.",
        releases=("0.1.6",),
    ),
    Defect(
        id="values-not-micro-batched",
        title="Values are computed for all rows at once, whatever the micro-batch.",
        where="tunix/rl/rl_cluster.py:1168",
        effect="Memory: the activations of the critic are those of the whole group.",
        mend="They are computed in the micro-batches of the log-probs.",
        probe=probes.values_take_all_rows,
        shown_by=("values-in-micro-batches",),
    ),
    Defect(
        id="model-not-donated",
        title="A train step keeps the old weights beside the new ones.",
        where="tunix/sft/peft_trainer.py:422",
        effect=(
            "Old and new weights, frozen ones too, are on the device at once while a step runs, "
            "and scores hand the whole critic back: the reference recipe takes 32.3 GiB in "
            "float32 and does not fit a v6e (compiled)."
        ),
        mend=(
            "The step is compiled over arrays: what is trained is donated, the rest is passed in "
            "and not returned; evaluation and scores return no weights."
        ),
        probe=probes.weights_are_not_donated,
        shown_by=("steps-overwrite",),
    ),
    Defect(
        id="policy-anchored",
        title="A cluster copies the policy to the host, for log-probs that PPO never asks for.",
        where="tunix/rl/rl_cluster.py:587",
        effect=(
            "The host holds the whole policy once more, base and all: 3.9 GiB of the reference "
            "recipe in float32, in the memory of training where the device is the CPU."
        ),
        mend="The copy is not made.",
        probe=probes.policy_is_copied_to_the_host,
        shown_by=("steps-overwrite",),
        releases=("0.1.7",),
    ),
    Defect(
        id="critic-last-metric-after-close",
        title="The critic's last metrics go to a logger that is closed.",
        where="tunix/rl/rl_cluster.py:696",
        effect="The last step of the critic is missing in TensorBoard.",
        mend="They are written before the actor's trainer closes the logger.",
        probe=probes.critic_writes_after_close,
    ),
    Defect(
        id="noise-shared-by-micro-batches",
        title="Rollout micro-batches of one batch share their noise.",
        where="tunix/rl/rl_cluster.py:938",
        effect="A setting for memory takes the variety out of a batch, with a seed too.",
        mend="As noise-repeats, where no seed is configured.",
        probe=probes.noise_repeats,
        shown_by=("noise-is-fresh",),
        fixed_with="noise-repeats",
    ),
    Defect(
        id="empty-completion-reward-lost",
        title="The reward of a completion that ends at once reaches nobody.",
        where="tunix/rl/ppo/ppo_learner.py:286",
        effect="Its row is masked whole: collapse to empty answers is never punished.",
        mend="As end-token-dropped: the row holds its end token.",
        probe=probes.end_token_dropped,
        shown_by=("completions-end",),
        fixed_with="end-token-dropped",
    ),
    Defect(
        id="clip-fraction-unweighted",
        title="Clip fractions are means over micro-batches of unequal token counts.",
        where="tunix/rl/ppo/ppo_learner.py:218",
        effect="The logged figure is not the share of the tokens.",
        mend="As micro-batch-token-mean: figures are weighed as the loss is.",
        probe=probes.micro_batches_count_alike,
        shown_by=("losses",),
        fixed_with="micro-batch-token-mean",
    ),
    Defect(
        id="eval-first-micro-batch",
        title="The evaluation loss is that of the first evaluation micro-batch.",
        where="tunix/rl/rl_learner.py:768",
        effect="The rest of the validation set is generated, scored and thrown away.",
        shown_by=("eval-uses-all",),
    ),
    Defect(
        id="eval-repeated",
        title="One evaluation is run again at every micro-batch of the step.",
        where="tunix/sft/peft_trainer.py:616",
        effect="Time, and a logged evaluation loss with repeats.",
        shown_by=("eval-uses-all",),
    ),
    Defect(
        id="max-steps-overshoot",
        title="max_steps is looked at only when a whole batch is done.",
        where="tunix/rl/rl_learner.py:626",
        effect="More updates than asked for, the last ones past the end of the learning rate.",
        shown_by=("max-steps",),
        releases=("0.1.7",),
    ),
    Defect(
        id="end-tokens-baked",
        title="A sampler keeps the end tokens of its first call.",
        where="tunix/generate/sampler.py:674",
        effect="Training and evaluation cannot have end tokens of their own.",
    ),
    Defect(
        id="temperature-zero-not-greedy",
        title="Temperature 0 divides the logits by 0.",
        where="tunix/generate/sampler.py:121",
        effect="An evaluation that was to be greedy answers with token 0.",
    ),
    Defect(
        id="long-prompt-widths",
        title="A prompt over max_prompt_length widens its micro-batch only.",
        where="tunix/generate/sampler.py:816",
        effect="One long prompt ends the run when micro-batches are joined.",
    ),
    Defect(
        id="prompt-list-torn",
        title="A Python list of prompts reaches the tokenizer as arrays.",
        where="tunix/rl/rl_learner.py:408",
        effect="A crash, or wrong tokens, as the tokenizer takes it.",
    ),
    Defect(
        id="columns-flattened",
        title="A column of two dimensions is cut into wrong rows.",
        where="tunix/rl/rl_learner.py:506",
        effect="The reward function is given the features of other rows.",
    ),
    Defect(
        id="trailing-batch-dropped",
        title="A smaller last batch is generated, rewarded and dropped.",
        where="tunix/rl/rl_learner.py:467",
        effect="The last rows of the data are never trained on.",
    ),
    Defect(
        id="reward-array-broadcast",
        title="An array with one reward, or a number, goes to every row.",
        where="tunix/rl/reward_manager.py:155",
        effect="All rows are rewarded alike, which whitens to no signal at all.",
    ),
    Defect(
        id="nan-reward-zero",
        title="A reward of NaN becomes 0.",
        where="tunix/rl/reward_manager.py:170",
        effect="A scorer that failed looks like a wrong answer.",
    ),
    Defect(
        id="stop-iteration-ends-training",
        title="StopIteration in a reward function counts as the end of the data.",
        where="tunix/rl/rl_learner.py:467",
        effect="Training ends early and looks complete.",
    ),
    Defect(
        id="shuffle-without-effect",
        title="data_shuffle_seed changes nothing but the order of summands.",
        where="tunix/rl/rl_learner.py:330",
        effect="Mini-batches are the same in every epoch.",
        mend="As mini-batch-off-policy: each epoch cuts the batch anew.",
        probe=probes.mini_batches_are_sampled_apart,
        shown_by=("passes-are-shuffled",),
        fixed_with="mini-batch-off-policy",
    ),
    Defect(
        id="trajectory-ids-skip",
        title="Trajectory ids count iterations, not examples.",
        where="tunix/rl/ppo/ppo_learner.py:514",
        effect="With two epochs every second id is skipped; reward functions are given them.",
    ),
    Defect(
        id="resume-restarts-noise",
        title="A resume starts its random numbers anew.",
        where="tunix/rl/rl_learner.py:99",
        effect=(
            "The order of micro-batches, and with fresh noise the noise, are those of the first "
            "batch again: a resumed run is not the run that went on."
        ),
        mend="Noise and order follow from the number of the mini-batch.",
        probe=probes.resume_restarts_noise,
        shown_by=("resume-data", "resume-equals-going-on"),
        engine=True,
    ),
    Defect(
        id="resume-mid-batch-step",
        title="A checkpoint within a batch says that the batch is done.",
        where="tunix/rl/rl_cluster.py:553",
        effect="After a resume the global step is ahead and metrics are shifted.",
        mend="A checkpoint that falls due within a batch is made at its end.",
        probe=probes.saves_within_a_batch,
        shown_by=("checkpoints-end-a-batch",),
        engine=True,
    ),
    Defect(
        id="resume-actor-critic-apart",
        title="A resume takes an actor and a critic of different steps.",
        where="tunix/rl/rl_cluster.py:550",
        effect="A run that was cut between two saves goes on with a critic that is older.",
        mend="It is refused; a run goes on from the newest step that both have whole.",
        probe=probes.resume_takes_any_two,
        shown_by=("resume-takes-both",),
        engine=True,
    ),
    Defect(
        id="resume-samples-initial-policy",
        title="With the rollout on its own mesh, a resume samples the initial weights.",
        where="tunix/rl/rl_learner.py:115",
        effect="The first batch and its old log-probs are of the untrained policy.",
    ),
    Defect(
        id="several-hosts",
        title="Of several processes, each takes the whole batch for its share.",
        where="tunix/sft/sharding_utils.py:70",
        effect=(
            "Two hosts train on every row twice, and each reads sampled tokens of which it holds "
            "a part: `run` refuses several hosts."
        ),
    ),
    Defect(
        id="lora-critic-head-frozen",
        title="The value head of a critic with LoRA is not trained.",
        where="tunix/sft/peft_trainer.py:217",
        effect="Values go through a random head for ever.",
        mend=(
            "The head's weights are parameters of LoRA's kind, by which the trainer finds what it "
            "differentiates, optimizes, saves and restores."
        ),
        probe=probes.lora_leaves_out_a_head,
        shown_by=("lora-critic-trains-its-head",),
    ),
    Defect(
        id="packing-skips-updates",
        title="With packing, one optimizer step spans several batches.",
        where="tunix/sft/peft_trainer.py:724",
        effect="Fewer updates, on data of older policies.",
        releases=("0.1.7",),
    ),
    Defect(
        id="entropy-of-excluded-tokens-nan",
        title="Entropy is NaN where a logit is -inf.",
        where="tunix/rl/algo_core.py:172",
        effect="With an entropy bonus, a model that excludes tokens has gradients of NaN.",
    ),
    Defect(
        id="max-steps-none-crashes",
        title="max_steps=None, the default, fails after the first batch.",
        where="tunix/rl/rl_learner.py:626",
        effect="The run ends without a checkpoint.",
    ),
    Defect(
        id="critic-optimizer-none",
        title="critic_optimizer=None, as documented, cannot be built.",
        where="tunix/rl/rl_cluster.py:550",
        effect="The run fails at its start.",
    ),
    Defect(
        id="algorithm-config-unchecked",
        title="PPOConfig never makes the checks of its base class.",
        where="tunix/rl/ppo/ppo_learner.py:100",
        effect="A misspelt variant passes.",
    ),
    Defect(
        id="listeners-cleared",
        title="Closing the metrics logger clears every listener of the process.",
        where="tunix/sft/metrics_logger.py:190",
        effect="Monitoring of others is lost; the logger's own scalar listener stays.",
    ),
    Defect(
        id="learning-rate-not-logged",
        title="The learning rate is not found behind gradient clipping.",
        where="tunix/sft/peft_trainer.py:459",
        effect="It is missing in the log of the usual optimizer.",
    ),
    Defect(
        id="perplexity-of-policy-loss",
        title="The logged perplexity is the exponential of the policy loss.",
        where="tunix/sft/peft_trainer.py:472",
        effect="A figure without meaning stands in every log.",
    ),
    Defect(
        id="grad-norm-of-micro-batches",
        title="The logged gradient norm is a mean of the norms of micro-batches.",
        where="tunix/sft/peft_trainer.py:716",
        effect="It is not the norm that is clipped.",
    ),
)
