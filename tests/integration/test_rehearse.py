"""The rehearsal of the real size, on tiny shapes: the same path, measured part by part."""

import dataclasses
import json
import pathlib
import threading

import pytest

from harness import recipe as recipe_lib
from harness import rehearse
from harness.measure import memory
from harness.measure import parts as parts_lib
from harness.models import checkpoint
from tests.support.cli import call

TINY = (
    "model.num_layers=1",
    'model.attention_pattern=["local"]',
    "model.vocab_size=520",
    "model.embed_dim=16",
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.head_dim=8",
    "lora.rank=2",
)


@pytest.fixture(scope="module")
def rehearsed(
    own_cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, rehearse.Rehearsal]:
    del own_cache
    out = tmp_path_factory.mktemp("rehearsal")
    return out, rehearse.run(out, assignments=TINY)


def test_every_piece_of_the_path_is_measured(rehearsed):
    _, found = rehearsed
    assert found.wrong == ()
    parts = {each["name"]: each for each in found.parts}
    whole = {"load": "prepare", "checksum": "prepare", "compare log-probs": "prepare"}
    steps = ("rollout", "log-probs", "values", "actor step", "critic step", "checkpoint", "seal")
    pieces = dict.fromkeys(steps, "train")
    phases = ("write checkpoint", "prepare", "build", "baseline", "train", "restore", "trained")
    assert {name: each["within"] for name, each in parts.items()} == {
        "rehearsal": None,
        **dict.fromkeys(phases, "rehearsal"),
        **whole,
        **pieces,
    }
    batches, epochs = found.recipe.data.num_batches, found.recipe.ppo.num_epochs
    assert parts["rollout"]["calls"] == batches
    assert parts["actor step"]["calls"] == parts["critic step"]["calls"] == batches * epochs
    assert parts["checkpoint"]["calls"] == parts["seal"]["calls"] > 0
    for each in found.parts:
        assert 0 < each["first_seconds"] <= each["seconds"] <= found.seconds
        assert 0 < each["end_bytes"] <= each["peak_bytes"] <= found.peak_bytes
    within = sum(each["seconds"] for each in found.parts if each["within"] == "rehearsal")
    assert within <= parts["rehearsal"]["seconds"]


def test_the_checkpoint_is_of_the_published_layout_and_the_restored_one_is_the_last(rehearsed):
    out, found = rehearsed
    folder = checkpoint.find(str(out / "checkpoint"))
    assert folder.name == "gemma3"
    # It is refused where a shape is not as published.
    read = checkpoint.read(found.recipe.model)
    assert {str(leaf.dtype) for leaf in read.values()} == {"bfloat16"}
    assert (out / "checkpoint" / "tokenizer.model").is_file()
    result = json.loads((out / "run" / "result.json").read_text())
    last = found.recipe.data.num_batches * found.recipe.ppo.num_epochs
    assert result["checkpoint_step"] == last
    assert found.saved_bytes > 0
    sealed = json.loads((out / "run" / "checkpoints" / "sealed" / f"{last}.json").read_text())
    assert sum(size for size, _ in sealed["files"].values()) == found.saved_bytes


def test_what_was_found_is_plain_json(rehearsed):
    _, found = rehearsed
    tree = json.loads(json.dumps(found.to_dict()))
    assert tree["schema"] == rehearse.SCHEMA
    assert recipe_lib.from_dict(tree["recipe"]) == found.recipe
    assert tree["peak_bytes"] == found.peak_bytes


def test_the_real_size_is_the_references():
    recipe = rehearse.recipe_for(pathlib.Path("here"))
    reference = recipe_lib.load("gemma3-1b")
    changed = {"weights", "checkpoint", "tokenizer", "dtype"}
    for field in dataclasses.fields(reference.model):
        if field.name not in changed:
            assert getattr(recipe.model, field.name) == getattr(reference.model, field.name)
    assert recipe.model.dtype == "bfloat16"
    assert recipe.model.checkpoint == "here"
    assert (recipe.lora, recipe.ppo) == (reference.lora, reference.ppo)


def test_other_weights_than_its_own_are_refused(capsys, tmp_path):
    code, out, err = call(
        capsys, "rehearse", "--set", "model.weights=random", "--out", tmp_path / "out"
    )
    assert (code, out) == (2, "")
    assert err == (
        "error: a rehearsal writes the checkpoint that it loads: leave model.weights and "
        "model.checkpoint alone\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(capsys, tmp_path):
    (tmp_path / "mine").write_text("")
    code, out, err = call(capsys, "rehearse", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path} is not an empty folder: name a new one\n"
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_other_weights_than_were_written_and_too_much_time_are_wrong(finished_run):
    model = {"sha256": "b" * 64}
    result = dataclasses.replace(finished_run.result, model=model)
    limits = rehearse.Limits(seconds=10)
    assert list(rehearse.wrong(result, "b" * 64, 9.0, limits)) == []
    assert list(rehearse.wrong(result, "a" * 64, 11.0, limits)) == [
        f"loaded weights have checksum {'b' * 64}, written were {'a' * 64}",
        "it took 11 seconds, more than 10",
    ]


def test_a_process_that_grows_past_the_limit_ends_with_a_word():
    parts = parts_lib.Parts()
    output: list[str] = []
    ended = threading.Event()

    def end(message: str) -> None:
        output.append(message)
        ended.set()

    with (
        parts("rehearsal"),
        parts("train"),
        rehearse.ended_beyond(2**30, parts, resident=lambda: 2**31, end=end),
    ):
        assert ended.wait(60)
    assert output == [
        "the rehearsal holds 2.00 GiB in rehearsal > train, more than the 1.00 GiB that it may: "
        "give it more by --max-gib, or fewer layers by --set model.num_layers=N"
    ]
    with rehearse.ended_beyond(2**30, parts, resident=lambda: 2**29, end=end):
        pass
    assert len(output) == 1


def test_what_is_only_held_by_the_allocator_is_given_back_before_a_rehearsal_is_ended():
    held, given_back = [2**31], threading.Event()

    def give_back() -> None:
        held[0] = 2**29
        given_back.set()

    with rehearse.ended_beyond(
        2**30,
        parts_lib.Parts(),
        resident=lambda: held[0],
        give_back=give_back,
        end=lambda message: pytest.fail(message),
    ):
        assert given_back.wait(60)


def test_parts_within_parts_have_their_own_time_and_peak():
    ticks = iter([0.0, 1.0, 3.0, 4.0, 5.0, 9.0])
    work = iter([0.0, 1.0, 2.0, 2.0, 3.0, 4.0])
    peaks = iter([5, 7, 30, 8, 9, 6])
    resets: list[None] = []

    def reset() -> bool:
        resets.append(None)
        return True

    parts = parts_lib.Parts(
        clock=lambda: next(ticks),
        processor=lambda: next(work),
        resident=lambda: 4,
        peak=lambda: next(peaks),
        reset=reset,
    )
    with parts("outer"):
        with parts("inner"):
            pass
        with parts("inner"):
            assert parts.running == ("outer", "inner")
    outer, inner = parts.to_list()
    assert (outer["within"], inner["within"]) == (None, "outer")
    assert (outer["seconds"], outer["calls"]) == (9.0, 1)
    assert (inner["seconds"], inner["first_seconds"], inner["calls"]) == (3.0, 2.0, 2)
    assert (outer["processor_seconds"], inner["processor_seconds"]) == (4.0, 2.0)
    # The peak before the outer began is no part's; what an inner part held, the outer did too.
    assert (outer["peak_bytes"], inner["peak_bytes"]) == (30, 30)
    assert len(resets) == 6
    assert parts.peaks_are_reset
    assert parts.running == ()


def test_a_part_that_raises_is_recorded():
    parts = parts_lib.Parts()
    with pytest.raises(KeyError), parts("fails"):
        raise KeyError
    assert [(each["name"], each["calls"]) for each in parts.to_list()] == [("fails", 1)]
    assert parts.running == ()


def test_the_systems_peak_is_at_least_what_is_held():
    assert parts_lib.peak_resident() > 0
    # 64 MiB beyond noise.
    block = bytearray(2**26)
    block[:: 2**12] = b"1" * len(block[:: 2**12])
    held = memory.process_memory()
    assert parts_lib.peak_resident() >= held - 2**24
    del block


def test_where_the_peak_cannot_be_reset_it_is_said():
    parts = parts_lib.Parts(reset=lambda: False)
    with parts("one"):
        pass
    assert not parts.peaks_are_reset
