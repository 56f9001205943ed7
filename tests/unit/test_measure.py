"""Environment, memory and phases, measured on the device at hand."""

import json
import os
import socket
import subprocess
import sys

import jax
import jax.monitoring
import jax.numpy as jnp
import psutil
import pytest
from jax._src import monitoring

from harness.measure import environment, memory, phases


def compile_something(shift: float) -> None:
    """Compile a program that no other call has compiled."""
    jax.jit(lambda x: jnp.tanh(x) * 2 + shift).lower(jnp.zeros(3)).compile()


@pytest.fixture
def own_listeners(monkeypatch):
    """Return the test its own lists of JAX's listeners, which it may clear."""
    for name in [name for name in vars(monitoring) if name.endswith("_listeners")]:
        if isinstance(registered := getattr(monitoring, name), list):
            monkeypatch.setattr(monitoring, name, list(registered))


@pytest.fixture
def durations(own_listeners):
    """Durations of compilations, as a listener of the test's own records them."""
    durations: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            durations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return durations


def test_two_processes_give_the_same_fingerprint_byte_for_byte():
    program = (
        "import json; from harness.measure import environment; "
        "print(json.dumps(environment.fingerprint()))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert json.loads(printed[0])["packages"]["jax"] == jax.__version__
    assert printed[0] == printed[1]


def test_fingerprint_names_interpreter_packages_and_devices():
    found = environment.fingerprint()
    assert found["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert found["packages"]["jax"] == jax.__version__
    assert set(found["packages"]) == set(environment.PACKAGES)
    assert found["backend"] == jax.default_backend()
    assert found["devices"] == {
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
    }
    assert found["cpu"]["count"] == os.cpu_count()


def test_fingerprint_holds_no_host_name_and_no_path():
    text = json.dumps(environment.fingerprint())
    assert socket.gethostname() not in text
    assert os.getcwd() not in text
    assert os.path.expanduser("~") not in text


def test_an_absent_package_has_no_version():
    assert environment.versions(["jax", "no-such-distribution"]) == {
        "jax": jax.__version__,
        "no-such-distribution": None,
    }


def test_what_programs_reserve_counts_as_held_and_in_the_peak():
    stats = {
        "bytes_in_use": 3,
        "bytes_reserved": 40,
        "peak_bytes_in_use": 500,
        "peak_bytes_reserved": 6000,
        "bytes_limit": 70000,
    }
    assert memory.from_stats("chip 0", stats) == memory.DeviceMemory(
        device="chip 0", in_use=43, peak=6500, limit=70000
    )


@pytest.mark.parametrize(
    ("stats", "in_use", "peak", "limit"),
    [
        (None, None, None, None),
        ({}, None, None, None),
        ({"bytes_in_use": 5}, 5, None, None),
        ({"bytes_in_use": 0, "peak_bytes_in_use": 7, "bytes_limit": 9}, 0, 7, 9),
    ],
)
def test_a_figure_that_the_device_does_not_give_is_none(stats, in_use, peak, limit):
    assert memory.from_stats("d", stats) == memory.DeviceMemory("d", in_use, peak, limit)


def test_every_local_device_is_read():
    assert len(memory.device_memory()) == jax.local_device_count()


def test_process_memory_is_what_the_system_reports_within_its_own_movement():
    before = psutil.Process().memory_info().rss
    assert memory.process_memory() == pytest.approx(before, rel=0.1)


def test_description_names_the_host_in_binary_units():
    assert memory.describe().splitlines()[-1].startswith("host: ")
    assert "iB in use by this process of" in memory.describe_host()


def test_on_a_cpu_there_is_no_peak():
    assert memory.peak_bytes() is None
    recorder = phases.Phases()
    with recorder("nothing"):
        pass
    assert recorder.to_list()[0]["peak_bytes"] is None


def test_phases_are_listed_in_order_with_the_time_of_each():
    ticks = iter([10.0, 12.5, 20.0, 21.0])
    recorder = phases.Phases(clock=lambda: next(ticks))
    with recorder("second letter of the alphabet"):
        pass
    with recorder("a"):
        pass
    listed = recorder.to_list()
    assert [(each["name"], each["seconds"]) for each in listed] == [
        ("second letter of the alphabet", 2.5),
        ("a", 1.0),
    ]
    assert json.loads(json.dumps(listed)) == listed
    assert set(listed[0]) == {"name", "seconds", "compile_seconds", "peak_bytes"}


def test_compile_time_goes_to_the_phase_that_compiled(durations):
    recorder = phases.Phases()
    with recorder("compiles"):
        compile_something(1.0)
    of_first = sum(durations)
    compile_something(2.0)
    with recorder("does not"):
        pass
    assert len(durations) >= 2
    first, second = recorder.to_list()
    assert first["compile_seconds"] == pytest.approx(of_first)
    assert second["compile_seconds"] == 0


def test_compile_time_before_listeners_are_cleared_is_kept_and_later_phases_listen_anew(durations):
    recorder = phases.Phases()
    with recorder("closes a metrics logger"):
        compile_something(3.0)
        of_first = sum(durations)
        jax.monitoring.clear_event_listeners()
    with recorder("compiles after it"):
        compile_something(4.0)
    first, second = recorder.to_list()
    assert durations
    assert first["compile_seconds"] == pytest.approx(of_first)
    assert second["compile_seconds"] != 0


def test_a_phase_leaves_no_listener_behind():
    before = monitoring.get_event_duration_listeners()
    recorder = phases.Phases()
    with recorder("quiet"):
        assert len(monitoring.get_event_duration_listeners()) == len(before) + 1
    assert monitoring.get_event_duration_listeners() == before


def test_a_phase_that_raises_is_recorded_and_lets_the_error_through():
    ticks = iter([0.0, 3.0, 5.0, 6.0])
    recorder = phases.Phases(clock=lambda: next(ticks))
    with pytest.raises(KeyError, match="bad day"), recorder("breaks"):
        raise KeyError("bad day")
    with recorder("next"):
        pass
    assert [(each["name"], each["seconds"]) for each in recorder.to_list()] == [
        ("breaks", 3.0),
        ("next", 1.0),
    ]


def test_a_phase_inside_a_phase_is_refused_and_the_outer_one_goes_on():
    recorder = phases.Phases()
    refused = pytest.raises(ValueError, match="'inner' begins inside phase 'outer'")
    with recorder("outer"), refused, recorder("inner"):
        pass
    assert [each["name"] for each in recorder.to_list()] == ["outer"]
