"""The page is for who has the token, and serves no files; a wrong setting is told at its field."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.ui import form
from finetune.ui.roots import Roots
from finetune.ui.serving import bound

pytest.importorskip("gradio", reason="the page needs Gradio", exc_type=ImportError)

TOKEN = "the-token"


@pytest.fixture
def port(roots: Roots) -> Iterator[int]:
    """The port at which a page is served."""
    import uvicorn

    from finetune.ui.serving import application

    with bound("127.0.0.1", 0) as listening:
        number: int = listening.getsockname()[1]
        config = uvicorn.Config(application(roots, TOKEN, "cookie"), log_level="error", lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield number
        server.should_exit = True
        thread.join()


def ask(port: int, path: str, cookie: str = "", method: str = "GET") -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_is_served_to_the_token_alone_and_no_file_is(port: int, roots: Roots) -> None:
    secret = roots.folders[0] / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    for path in ("/", "/?token=other", "/config", "/gradio_api/info", f"/gradio_api/file={secret}"):
        answer, content = ask(port, path)
        assert answer.status == 403 and b"needs the token" in content, path
    assert ask(port, "/", cookie="cookie=the-tokem")[0].status == 403
    assert ask(port, f"/gradio_api/queue/join?token={TOKEN}", method="POST")[0].status == 403
    answer, _ = ask(port, f"/?token={TOKEN}&__theme=dark")
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fault_is_told_at_its_field(roots: Roots) -> None:
    import gradio as gr

    from finetune.ui.tabs.new_run import KEYS, NewRun

    with gr.Blocks():
        tab = NewRun(roots, gr.BrowserState(""))
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
