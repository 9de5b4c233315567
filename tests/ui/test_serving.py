"""The page is for who has the token, and serves no files; a wrong setting is told at its field."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune.errors import ConfigError
from finetune.ui import form
from finetune.ui.roots import Roots
from finetune.ui.serving import bound

if TYPE_CHECKING:
    from finetune.ui.tabs.new_run import NewRun

pytest.importorskip("gradio", reason="the page needs Gradio", exc_type=ImportError)


@pytest.fixture
def address(roots: Roots) -> Iterator[tuple[int, str]]:
    """The port and the token of a page that the command serves."""
    command = [sys.executable, "-m", "finetune", "ui", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r":(\d+)/\?token=(\S+)", server.stdout.readline())
            assert found is not None
            yield int(found[1]), found[2]
        finally:
            server.terminate()
    assert server.returncode == 0


@pytest.fixture
def tab(roots: Roots) -> Iterator[NewRun]:
    """The tab of new runs, without a page around it."""
    import gradio as gr

    from finetune.ui.tabs.new_run import NewRun

    with gr.Blocks():
        made = NewRun(roots, gr.BrowserState(""))
    yield made
    del made
    gc.collect()


def ask(port: int, path: str, cookie: str = "", method: str = "GET") -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


@pytest.mark.slow
def test_the_page_is_served_to_the_token_alone_and_no_file_is(address: tuple[int, str], roots: Roots) -> None:
    port, token = address
    secret = roots.folders[0] / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    for path in ("/", "/?token=other", "/config", "/gradio_api/info", f"/gradio_api/file={secret}"):
        answer, content = ask(port, path)
        assert answer.status == 403 and b"needs the token" in content, path
    assert ask(port, "/", cookie=f"finetune-{port}={token[:-1]}")[0].status == 403
    assert ask(port, f"/gradio_api/queue/join?token={token}", method="POST")[0].status == 403
    answer, _ = ask(port, f"/?token={token}&__theme=dark")
    assert answer.status == 303 and answer.headers["Location"] == "/?__theme=dark"
    given = answer.headers["Set-Cookie"]
    assert "HttpOnly" in given and "SameSite=Lax" in given
    cookie = given.partition(";")[0]
    answer, content = ask(port, "/", cookie=cookie)
    assert answer.status == 200 and b"New run" in content
    for file in (secret, Path("/etc/passwd"), Path(form.__file__)):
        answer, content = ask(port, f"/gradio_api/file={file}", cookie=cookie)
        assert answer.status == 403 and b"secret" not in content.replace(str(file).encode(), b""), file
    with pytest.raises(ConfigError, match="in use"):
        bound("127.0.0.1", port)


# Gradio leaves event loops open where it is imported and where components are made.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_is_told_at_its_field(tab: NewRun) -> None:
    from finetune.ui.tabs.new_run import KEYS

    first = tab.when_loaded("")
    assert form.read(first[0]) == ("lora", {})
    values = ["many" if key == "training.steps" else "" for key in KEYS]
    text, _, folder, *fields, kind, faults, _ = tab._typed(first[0], first[1], "mycat", *values)
    assert form.read(text) == ("lora", {"data.instance_dir": "mycat", "training.steps": "many"})
    wrong = {key for key, field in zip(KEYS, fields, strict=True) if "⚠" in field.get("info", "")}
    assert wrong == {"training.steps"} and "whole number" in faults and kind == "lora"
    assert "⚠" not in folder["info"]
    # The YAML that somebody edits meanwhile is not set back by a field that still shows the old one.
    assert tab.merged("kind: lora\ntraining: {steps: 9}\n", text, "mycat", *values) == (
        "kind: lora\ntraining: {steps: 9}\n"
    )
    shown = {key for key, field in zip(KEYS, fields, strict=True) if field.get("visible")}
    assert shown == set(form.front("lora"))
