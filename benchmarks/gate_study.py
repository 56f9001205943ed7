"""Is the time tier to be trusted? Real pairs with nothing, and with real work, injected.

Every replicate starts five fresh processes on one core, which alternate: two
of the same work, and three that run 5, 10 and 20% more forward passes of the
policy. So each makes one pair of every kind, and a gate run is as many of those
pairs, drawn anew.

    python -m benchmarks.gate_study collect --replicates 30 --out runs/gate_study.jsonl
    python -m benchmarks.gate_study report runs/gate_study*.jsonl --markdown docs/gate_study.md
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import random
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydantic

from harness import crash, jsonlines
from harness.artifacts import bench
from harness.artifacts.parts import Part, Processor
from harness.errors import HarnessError
from harness.gate import arms, runner, statistics, timing
from harness.gate.verdict import Verdict
from harness.measure import processor

MODULE = "benchmarks.gate_study"
ROOT = pathlib.Path(__file__).resolve().parents[1]
# Forward passes of a round: 5, 10 and 20% more are whole passes.
PASSES = 20
MORE = {"again": 0, "5%": 1, "10%": 2, "20%": 4}
BASE, NAME = "base", "forward"
GATE_RUNS = 100
# As many as `gate --against` looks at: the others of a run have nothing injected.
FAMILY = len(runner.TIMED)
MICRO_BATCH = 16
PYTEST_RULE = 0.05


class Replicate(Part):
    """What one replicate measured, a line of JSON: clock -> process -> seconds a call."""

    core: int
    first: str
    cpu: Processor
    load: float
    seconds: dict[str, dict[str, list[float]]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=MODULE, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker")
    worker.add_argument("--core", type=int, required=True)
    worker.add_argument("--more", type=int, required=True)
    collect_ = commands.add_parser("collect")
    collect_.add_argument("--replicates", type=int, default=30)
    collect_.add_argument("--rounds", type=int, default=41)
    collect_.add_argument("--core", type=int)
    collect_.add_argument("--out", type=pathlib.Path, required=True)
    report_ = commands.add_parser("report")
    report_.add_argument("files", nargs="+", type=pathlib.Path)
    report_.add_argument("--markdown", type=pathlib.Path)
    given = parser.parse_args(argv)
    if given.command == "worker":
        work(given.core, given.more)
    elif given.command == "collect":
        collect(given.out, given.replicates, given.rounds, processor.choose(given.core))
    else:
        text = report(read(given.files))
        print(text, end="")
        if given.markdown:
            given.markdown.write_text(text, encoding="utf-8")


def work(core: int, more: int) -> None:
    """The process of one arm: some forward passes a call, `more` of them injected."""
    processor.pin(core)

    from harness.bench import worker

    out = jsonlines.own_stdout()
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from harness import models
    from harness import recipe as recipe_lib

    recipe = recipe_lib.load("tiny")
    policy = models.random_gemma(recipe.model, models.make_mesh(recipe.sharding), recipe.seed)
    graph, state = nnx.split(policy)
    length = recipe.rollout.max_prompt_length + recipe.rollout.max_new_tokens
    tokens = jnp.ones((MICRO_BATCH, length), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    mask = jnp.broadcast_to(
        jnp.tril(jnp.ones((length, length), bool)), (MICRO_BATCH, length, length)
    )

    @jax.jit
    def log_probs(state, tokens):
        logits, _ = nnx.merge(graph, state)(
            tokens, positions=positions, cache=None, attention_mask=mask
        )
        return jnp.max(logits, -1) - jax.nn.logsumexp(logits, -1)

    def passes(_: Any) -> None:
        for _ in range(PASSES + more):
            log_probs(state, tokens).block_until_ready()

    timed = types.SimpleNamespace(prepare=lambda: None, run=passes)
    worker.serve(bench.Header(**worker.header(recipe)), {NAME: timed}, sys.stdin, out)


def collect(out: pathlib.Path, replicates: int, rounds: int, core: int) -> None:
    """Run replicates, and appends each to a file as soon as it is there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = len(out.read_text().splitlines()) if out.exists() else 0
    here = arms.Arm(BASE, "this checkout", ROOT, sys.executable, None)
    plan = runner.Plan(rounds=rounds, most_rounds=rounds, timed=(NAME,))
    with tempfile.TemporaryDirectory(prefix="ppo-harness-study-") as folder:
        for number in range(done, replicates):
            order = random.Random(f"{core} {number}")
            kinds = {BASE: 0, **MORE}
            starts = list(kinds)
            order.shuffle(starts)
            with contextlib.ExitStack() as stack:
                live = {}
                for kind in starts:
                    command = [MODULE, "worker", "--core", str(core), "--more", str(kinds[kind])]
                    process = arms.Process(here, command, cache=pathlib.Path(folder))
                    live[kind] = stack.enter_context(process)
                    cpu = process.wait(bench.Header).environment.cpu
                seconds = runner.time_rounds(live, NAME, plan, order)
            found = Replicate(
                core=core, first=starts[0], cpu=cpu, load=os.getloadavg()[0], seconds=seconds
            )
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found.to_json()) + "\n")
            print(f"replicate {number + 1} of {replicates}", file=sys.stderr, flush=True)


def read(files: list[pathlib.Path]) -> list[Replicate]:
    """Read replicates, of which there must be as many as a gate run may take pairs."""
    found = [replicate for file in files for replicate in _lines(file)]
    if len(found) < timing.Rules().looks[-1]:
        raise HarnessError(
            f"{', '.join(map(str, files))}: {len(found)} replicate(s) are too few: collect "
            f"{timing.Rules().looks[-1]} or more"
        )
    return found


def _lines(file: pathlib.Path) -> Iterator[Replicate]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{file} cannot be read ({error}): give what collect wrote") from None
    for number, line in enumerate(lines, 1):
        try:
            yield Replicate.model_validate_json(line)
        except pydantic.ValidationError as error:
            raise HarnessError(
                f"line {number} of {file} is no replicate ({error.errors()[0]['msg']}): give what "
                "collect wrote"
            ) from None


def pairs_of(replicates: list[Replicate], kind: str) -> list[timing.Pair]:
    """One pair a replicate: the plain work against that of a kind."""
    return [
        timing.Pair(
            "baseline",
            {
                NAME: {
                    clock: {"baseline": found[BASE], "candidate": found[kind]}
                    for clock, found in each.seconds.items()
                }
            },
        )
        for each in replicates
    ]


def gate_runs(
    quiet: list[float], injected: list[float], rules: timing.Rules, runs: int = GATE_RUNS
) -> Counter[str]:
    """Play whole gate runs on pairs drawn without replacement.

    Args:
      quiet: Values of pairs without injected work; each is swapped or not
        at random, since which arm is which has no meaning.
      injected: Values of pairs with injected work; empty for runs without.
      rules: The gate's.
      runs: How many.

    Returns:
      How often each verdict was given on the injected benchmark, or, without
      one, on the worst of all.
    """
    draw = np.random.default_rng(0)
    most = rules.looks[-1]
    verdicts: Counter[str] = Counter()
    for _ in range(runs):
        values = {}
        for other in range(FAMILY):
            signs = draw.choice([-1.0, 1.0], most)
            values[f"quiet {other}"] = list(draw.choice(quiet, most, replace=False) * signs)
        if injected:
            values["quiet 0"] = list(draw.choice(injected, most, replace=False))
        decisions = timing.judge(values, rules)
        looked = [decisions["quiet 0"]] if injected else list(decisions.values())
        output = {decision.verdict for decision in looked}
        for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS):
            if verdict in output:
                verdicts[verdict] += 1
                break
    return verdicts


def pytest_alarms(pairs: list[timing.Pair], clock: timing.Clock) -> int:
    """How many pairs `--benchmark-compare-fail=mean:5%` would have called a regression."""
    count = 0
    for pair in pairs:
        found = pair.seconds[NAME][clock]
        count += np.mean(found["candidate"]) > (1 + PYTEST_RULE) * np.mean(found["baseline"])
    return int(count)


def report(replicates: list[Replicate]) -> str:
    """Write the study's page."""
    rules = timing.Rules()
    quiet = [pair.log_ratio(NAME, "cpu") for pair in pairs_of(replicates, "again")]
    rows = []
    for kind in MORE:
        pairs = pairs_of(replicates, kind)
        values = [pair.log_ratio(NAME, "cpu") for pair in pairs]
        wall_clock = [pair.log_ratio(NAME, "wall_clock") for pair in pairs]
        verdicts = gate_runs(quiet, [] if kind == "again" else values, rules)
        rows.append(
            f"| {'nothing' if kind == 'again' else kind} "
            f"| {_estimate(values)} | {_estimate(wall_clock)} "
            f"| {_share(verdicts[Verdict.FAIL], GATE_RUNS)} | {verdicts[Verdict.INCONCLUSIVE]} "
            f"| {verdicts[Verdict.PASS]} "
            f"| {_share(pytest_alarms(pairs, 'wall_clock'), len(pairs))} "
            f"| {_share(pytest_alarms(pairs, 'cpu'), len(pairs))} |"
        )
    cpu = replicates[0].cpu
    load = np.median([each.load for each in replicates])
    rounds = len(replicates[0].seconds["cpu"][BASE])
    reach = statistics.detectable(
        float(np.std(quiet, ddof=1)),
        rules.looks[0],
        margin=math.log1p(rules.margin),
        alpha=rules.alphas[0] / FAMILY,
    )
    return "\n".join(
        [
            "# Is the time tier to be trusted?",
            "",
            f"{len(replicates)} replicates on {cpu.model}, {cpu.count} cores shared with "
            f"other work (median load {load:.0f}), {rounds} rounds each. A replicate is five fresh "
            "processes on one core that alternate in an order drawn each round: "
            f"{PASSES} forward passes of the tiny policy, the same again, and 5, 10 and 20% more "
            "passes: real work, no sleep. Each replicate makes one pair of every kind.",
            "",
            f"A gate run looks at {FAMILY} benchmarks at {', '.join(map(str, rules.looks))} pairs. "
            f"{GATE_RUNS} runs are drawn from the replicates without replacement within a "
            "benchmark; all benchmarks but one have nothing injected. A run without injected work "
            "is a false alarm if any benchmark fails; pairs without injected work are swapped "
            "at random. The rule of pytest-benchmark is applied to each pair's wall times as they "
            "are, which favours it: its own two runs would not alternate.",
            "",
            "| injected | CPU time, sd of a pair | wall time, sd of a pair | gate: FAIL "
            "| INCONCLUSIVE | PASS | `mean:5%` alarms, wall time | `mean:5%` alarms, CPU time |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"Shares are of {GATE_RUNS} gate runs and of {len(replicates)} pairs, with Wilson's "
            "95% interval; runs drawn from the same pairs are not independent, so that the "
            "interval of a gate run is too narrow by an unknown amount. At the spread found, the "
            f"first look sees {math.expm1(reach):+.1%} in 95%.",
            "",
            "`nox -s gate_study` makes this page anew.",
            "",
        ]
    )


def _estimate(values: list[float]) -> str:
    return f"{math.expm1(np.mean(values)):+.2%}, {np.std(values, ddof=1):.2%}"


def _share(count: int, total: int) -> str:
    low, high = statistics.wilson(count, total)
    return f"{count} of {total} ({low:.0%} .. {high:.0%})"


if __name__ == "__main__":
    crash.end(main)
