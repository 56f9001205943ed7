"""Without a network: refused at once, by host and reason, before anything is loaded."""

import pathlib
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest
from kagglesdk import kaggle_env
from tensorflow_datasets.text.gsm8k import gsm8k as builder

from harness import downloads, network
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.models import kaggle
from tests.support.cli import ROOT

HANDLE = "google/gemma-3/flax/gemma3-1b-it"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))


class Listener:
    """A port that takes connections and answers each with one text."""

    def __init__(self, answer: bytes):
        self.requests: list[bytes] = []
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(4096))
                if self.requests[-1]:
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener(b"HTTP/1.1 200 Connection established\r\n\r\n")
    yield made
    made.close()


@pytest.fixture
def refusing() -> Iterator[Listener]:
    made = Listener(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    yield made
    made.close()


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that is bound, and at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_host_that_accepts_is_reachable(listener):
    assert network.unreachable(f"http://127.0.0.1:{listener.port}/file") is None
    assert network.unreachable(f"http://localhost:{listener.port}/file") is None


def test_a_closed_port_and_an_unknown_name_are_not(closed, monkeypatch):
    output = network.unreachable(f"http://127.0.0.1:{closed}/file")
    assert output == "127.0.0.1: Connection refused"

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert network.unreachable("https://nowhere.invalid/") == (
        "nowhere.invalid: Name or service not known"
    )


def test_a_name_server_and_a_host_that_are_silent_are_given_up(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait())
    silent = "no answer within 0.01 s, PPO_HARNESS_NETWORK_SECONDS=10 waits longer"
    assert network.unreachable("https://nowhere.invalid/", 0.01) == f"nowhere.invalid: {silent}"
    answered.set()
    monkeypatch.undo()
    with socket.socket() as full:  # a queue of one, which is taken: what comes next is dropped
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            url = f"http://127.0.0.1:{full.getsockname()[1]}/"
            assert network.unreachable(url, 0.01) == f"127.0.0.1: {silent}"


def test_one_address_that_leads_nowhere_does_not_hide_another(listener, closed, monkeypatch):
    def both(*arguments: object, **options: object) -> list:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, ("127.0.0.1", port)) for port in (closed, listener.port)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert network.unreachable("http://two.invalid/") is None


@pytest.mark.parametrize(("value", "seconds"), [("7.5", 7.5), ("", 2.0), ("soon", 2.0), ("-1", 2)])
def test_the_time_limit_is_the_environments_if_it_is_one(value, seconds, monkeypatch):
    monkeypatch.setenv(network.VARIABLE, value)
    assert network._limit() == seconds


def test_a_proxy_is_asked_in_place_of_the_host_and_its_password_stays_hidden(
    listener, refusing, closed, monkeypatch
):
    url = "https://nowhere.invalid/file"
    monkeypatch.setenv("https_proxy", f"http://ali:sesame@127.0.0.1:{listener.port}")
    assert network.unreachable(url) is None
    assert listener.requests[-1].startswith(b"CONNECT nowhere.invalid:443 ")
    assert b"Proxy-Authorization: Basic" in listener.requests[-1]
    monkeypatch.setenv("https_proxy", f"http://ali:sesame@127.0.0.1:{refusing.port}")
    output = network.unreachable(url) or ""
    assert output.startswith(f"the proxy 127.0.0.1:{refusing.port}: ")
    assert "407 Proxy Authentication Required" in output
    monkeypatch.setenv("https_proxy", f"http://ali:sesame@127.0.0.1:{closed}")
    assert network.unreachable(url) == f"the proxy 127.0.0.1:{closed}: Connection refused"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert network.unreachable(f"https://127.0.0.1:{listener.port}/file") is None


def recipe(tmp_path: pathlib.Path, *assignments: str) -> recipe_lib.Recipe:
    local = ("data.source=arithmetic", f"model.checkpoint={tmp_path}")
    return recipe_lib.load("gemma3-1b", assignments=(*local, *assignments))


def test_data_that_is_here_needs_no_network(closed, monkeypatch, tmp_path):
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed}")
    asked = [recipe(tmp_path, f"data.source={each}") for each in ("tfds", f"tfds:{tmp_path}")]
    for each in asked:
        with pytest.raises(HarnessError, match=r"GSM8K is not in .* Connection refused\): set "):
            downloads.check(each)
    for folder in (downloads.gsm8k_folder(), tmp_path):
        whole = folder / "gsm8k" / "1.0.0"
        whole.mkdir(parents=True)
        (whole / "dataset_info.json").write_text("{}")
    for each in (*asked, recipe(tmp_path, "data.source=tfds:gs://mine")):
        downloads.check(each)


def test_weights_that_are_here_need_no_network(monkeypatch, tmp_path):
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9"
    )
    asked = recipe(tmp_path, f"model.checkpoint=kaggle:{HANDLE}")
    with pytest.raises(HarnessError, match=r"Kaggle cannot be reached \(127.0.0.1: Connection"):
        downloads.check(asked)
    with pytest.raises(HarnessError, match=r"Kaggle cannot be reached \(127.0.0.1: Connection"):
        kaggle.local(asked)
    above = tmp_path / "hub" / "models" / HANDLE
    for version in ("2", "10", "11"):  # the last one's download was cut off
        (above / version).mkdir(parents=True)
    for version in ("2", "10"):
        (above / f"{version}.complete").touch()
    lines: list[str] = []
    downloads.check(asked)
    assert kaggle.local(asked, lines.append).model.checkpoint == str(above / "10")
    assert [line.partition(" (")[0] for line in lines] == ["Kaggle cannot be reached"]
    assert f"version 10 of {HANDLE}, downloaded earlier, is used" in lines[0]
    older = recipe(tmp_path, f"model.checkpoint=kaggle:{HANDLE}/2")
    downloads.check(older)
    assert kaggle.local(older, lines.append).model.checkpoint == str(above / "2")
    assert len(lines) == 1
    with pytest.raises(HarnessError, match="Kaggle cannot be reached"):
        downloads.check(recipe(tmp_path, f"model.checkpoint=kaggle:{HANDLE}/11"))


def test_the_host_that_is_looked_at_is_the_one_downloaded_from():
    hosts = {urllib.parse.urlsplit(url).hostname for url in builder._URLS.values()}
    assert hosts == {urllib.parse.urlsplit(downloads.GSM8K_URL).hostname}


def test_the_command_looks_before_it_loads_anything(closed, tmp_path, monkeypatch):
    """Neither JAX nor a tokenizer nor TensorFlow Datasets is there by then."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed}")
    program = (
        "import sys\n"
        "from harness import cli\n"
        "try:\n"
        "    cli.main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'jax', 'sentencepiece', 'tensorflow_datasets', 'tunix'} & set(sys.modules)\n"
        "    print(sorted(heavy))\n"
    )
    options = ("--preset", "gemma3-1b", "--checkpoint", "here", "--out", str(tmp_path / "out"))
    for given, output in (
        (("--data", "tfds"), "GSM8K is not in"),
        (("--data", "arithmetic", "--checkpoint", f"kaggle:{HANDLE}"), "Kaggle cannot be reached"),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", program, "run", *options, *given],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert (ended.returncode, ended.stdout) == (2, "[]\n"), ended.stderr
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("error: ")
        assert output in ended.stderr
        assert not (tmp_path / "out").exists()
