"""Weights by Kaggle, from a stand-in on loopback: what is downloaded, and each way to fail."""

import errno
import http.server
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import kagglehub.config
import numpy as np
import pytest
from kagglehub import http_resolver
from kagglesdk import kaggle_env

from harness import models
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.errors import HarnessError
from harness.models import checkpoint, gemma, kaggle, probe
from tests.conftest import SMALL, SMALL_OPTIONS, small_recipe
from tests.support.cli import call

HANDLE = "google/gemma-3/flax/gemma3-1b-it"
SECRET = "sesame-4711"


class Kaggle(http.server.BaseHTTPRequestHandler):
    """Answers as Kaggle does, or with the status it is given; it repeats credentials in errors."""

    status = 200
    model: pathlib.Path | None = None
    secrets_seen: list[str] = []  # noqa: RUF012 - a handler is made for each request

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = self.headers.get("Authorization", "")
        self.secrets_seen.append(given)
        method = self.path.rpartition("/")[2]
        if self.status != 200 or self.model is None:
            return self._answer(json.dumps({"code": self.status, "message": f"{given} {SECRET}"}))
        if method == "GetModelInstance":
            return self._answer(json.dumps({"versionNumber": 1}))
        if method == "ListModelInstanceVersionFiles":
            found = [p for p in sorted(self.model.rglob("*")) if p.is_file()]
            names = [{"name": p.relative_to(self.model).as_posix()} for p in found]
            return self._answer(json.dumps({"files": names, "nextPageToken": ""}))
        assert method == "DownloadModelInstanceVersion"
        return self._answer((self.model / body["path"]).read_bytes(), "application/octet-stream")

    def _answer(self, content: str | bytes, kind: str = "application/json") -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(self.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Describe nothing."""


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[type[Kaggle]]:
    handler = type("Handler", (Kaggle,), {"secrets_seen": []})
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{made.server_address[1]}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, endpoint)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    yield handler
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path) -> None:
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def credentials(monkeypatch) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "ali")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)


def refused(capsys, tmp_path, *options: str) -> str:
    """Run the real preset's command; gives its one line."""
    code, out, err = call(
        # However little memory there is here.
        *(capsys, "run", "--force", "--preset", "gemma3-1b", "--data", "arithmetic"),
        *("--checkpoint", f"kaggle:{HANDLE}", "--out", tmp_path / "out", *options),
    )
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    for hidden in (SECRET, "YWxp"):  # as it is, and in base 64
        assert hidden not in out + err
    assert not (tmp_path / "out").exists()
    return err


def test_no_credentials(server, capsys, tmp_path):
    server.status = 403
    output = refused(capsys, tmp_path)
    assert "needs Kaggle credentials and there are none: set KAGGLE_API_TOKEN" in output


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, "Kaggle does not take the credentials: make a new token"),
        (403, "the licence of google/gemma-3/flax/gemma3-1b-it is not accepted by this account"),
        (404, "Kaggle has no model google/gemma-3/flax/gemma3-1b-it: see kaggle.com/models"),
        (500, "Kaggle answers with status 500: try again later"),
    ],
)
def test_a_refusal_has_a_line_of_its_own_without_credentials(
    status, line, server, credentials, capsys, tmp_path
):
    server.status = status
    assert line in refused(capsys, tmp_path)
    assert any(server.secrets_seen)


def test_no_network(credentials, capsys, tmp_path, monkeypatch):
    # A port on which nothing listens.
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9"
    )
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    output = refused(capsys, tmp_path)
    assert "Kaggle cannot be reached (127.0.0.1: Connection refused): check the network" in output


def test_no_room(server, credentials, capsys, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1" * 100)
    server.model = tmp_path / "model"

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(http_resolver, "download_file", full)
    assert "(No space left on device): make room, or set KAGGLEHUB_CACHE" in refused(
        capsys, tmp_path
    )


@pytest.mark.parametrize("handle", ["gemma", "google/gemma-3/flax"])
def test_a_handle_that_is_none(handle):
    with pytest.raises(HarnessError, match="the handle is not owner/model/framework/variation"):
        kaggle.download(handle)


def test_a_credentials_file_that_is_none_is_not_quoted(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "kaggle.json").write_text(f'{{"username": "{SECRET}"')
    with pytest.raises(HarnessError, match=r"kaggle\.json is not what Kaggle gave") as failed:
        kaggle.download(HANDLE)
    assert SECRET not in str(failed.value)
    assert failed.value.__cause__ is failed.value.__context__ is None


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> pathlib.Path:
    """A small Gemma 3 as Kaggle lays out the real one: weights one level down, tokenizer beside."""
    recipe = small_recipe()
    policy = models.make_policy(recipe, models.make_mesh(recipe.sharding))
    folder = tmp_path_factory.mktemp("published")
    checkpoint.write(gemma.weights_of(policy), folder / "gemma3-1b-it")
    tokenizer = pathlib.Path(tokenizer_lib.__file__).parent / "assets" / "tiny_tokenizer.model"
    (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    return folder


def of_kaggle(*assignments: str) -> recipe_lib.Recipe:
    return small_recipe(
        "model.weights=checkpoint",
        f"model.checkpoint=kaggle:{HANDLE}",
        "model.tokenizer=checkpoint",
        *assignments,
    )


def test_what_kaggle_has_is_downloaded_once_and_loaded(
    server, credentials, published, tmp_path, capfd
):
    server.model = published
    local = kaggle.local(of_kaggle())
    assert str(local.model.checkpoint).startswith(str(tmp_path / "hub"))
    assert tokenizer_lib.load(local).vocab_size == 512
    random = small_recipe()
    mesh = models.make_mesh(random.sharding)
    loaded, drawn = (models.make_policy(each, mesh) for each in (local, random))
    assert models.checksum(loaded) == models.checksum(drawn)
    asked = len(server.secrets_seen)
    assert kaggle.local(of_kaggle()) == local
    # Whether there is a newer version is asked, and no more.
    assert len(server.secrets_seen) == asked + 1
    out, err = capfd.readouterr()
    assert SECRET not in out + err
    assert kaggle.local(random) is random
    assert kagglehub.config.get_kaggle_credentials() is not None


def test_what_was_loaded_is_described(published):
    recipe = small_recipe("model.weights=checkpoint", f"model.checkpoint={published}")
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh)
    found = probe.describe(policy)
    shapes = {name: each["shape"] for name, each in found["arrays"].items()}
    assert shapes["embedder/input_embedding"] == [512, 32]
    assert found["parameters"] == sum(int(np.prod(shape)) for shape in shapes.values())
    assert found["bytes"] == 4 * found["parameters"]
    assert found["dtypes"] == ["float32"]
    assert found["sha256"] == models.checksum(policy)


def test_log_probs_of_a_prompt_are_made_by_the_command_and_tell_models_apart(
    published, capsys, tmp_path
):
    options = ("--set", "model.weights=checkpoint", "--set", f"model.checkpoint={published}")
    file = tmp_path / "log_probs.json"
    code, out, err = call(capsys, "make-log-probs", file, *SMALL_OPTIONS, *options)
    assert (code, err) == (0, "")
    assert str(file) in out
    stored = json.loads(file.read_text())
    top = np.array(stored["top_log_probs"])
    assert top.shape == np.array(stored["top_ids"]).shape == (len(stored["tokens"]), 10)
    assert np.all(np.diff(top, axis=-1) <= 0)
    recipe = small_recipe("model.weights=checkpoint", f"model.checkpoint={published}")
    mesh = models.make_mesh(recipe.sharding)
    tokenizer = tokenizer_lib.load(recipe)
    policy = models.make_policy(recipe, mesh)
    assert probe.compare(policy, tokenizer, mesh, file) == 0
    other = models.make_policy(
        recipe_lib.load("tiny", overrides={"seed": 3}, assignments=SMALL), mesh
    )
    with pytest.raises(HarnessError, match=r"differ from .* nats, more than 0\.01"):
        probe.compare(other, tokenizer, mesh, file)
    file.write_text(json.dumps({**stored, "tokens": stored["tokens"][1:]}))
    with pytest.raises(HarnessError, match="cuts the prompt"):
        probe.compare(policy, tokenizer, mesh, file)
    file.write_text("{}")
    with pytest.raises(HarnessError, match="cannot be read"):
        probe.compare(policy, tokenizer, mesh, file)
