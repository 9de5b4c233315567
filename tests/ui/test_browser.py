"""A new user's way through the page in a real browser: folder, settings, training, previews, pictures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from finetune.ui.roots import Roots

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or not find_spec("playwright") or not find_spec("gradio"),
        reason="needs Gradio, playwright and Chromium",
    ),
]
MINUTE = 60_000  # milliseconds


@pytest.fixture
def address(roots: Roots) -> Iterator[str]:
    command = [sys.executable, "-m", "finetune", "ui", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"http\S+", server.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            server.terminate()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": 390, "height": 844})
        made.set_default_timeout(MINUTE)
        made.goto(address)
        yield made
        browser.close()


def tab(page: Any, name: str) -> None:
    page.click(f"button[role=tab]:has-text('{name}')")


def fill(page: Any, place: str, text: str) -> None:
    page.locator(f"#{place} textarea, #{place} input").first.fill(text)
    page.keyboard.press("Tab")


def recipe(page: Any, *parts: str) -> None:
    """Waits until the YAML has all of these."""
    page.wait_for_selector("#yaml")
    shown = "document.querySelector('#yaml').innerText"
    page.wait_for_function(f"parts => parts.every(part => {shown}.includes(part))", arg=list(parts))


def test_from_a_folder_to_pictures(page: Any, tiny_models: dict[str, Path], roots: Roots) -> None:
    page.click("#folder input")
    page.click("text=mycat (4 pictures)")
    page.wait_for_selector("#sheet figure")
    assert "broken.png" in page.locator("#sheet").inner_text()
    page.click("#yaml .cm-content")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("kind: lora\ndata: {instance_dir: mycat}\noptimizer: {lr: 0.5}\n")
    page.evaluate("document.activeElement.blur()")
    field = "document.querySelector('#optimizer-lr textarea, #optimizer-lr input')"
    page.wait_for_function(f"{field}.value == '0.5'")
    page.wait_for_timeout(1500)  # nobody writes into a field at the moment in which the YAML changes it
    fill(page, "optimizer-lr", "")
    fill(page, "training-steps", "many")
    page.wait_for_selector("#training-steps >> text=must be a whole number")
    page.click("#start")
    page.wait_for_selector("#faults >> text=must be a whole number")
    assert not (roots.folders[0] / "runs").exists()
    fill(page, "training-steps", "100000")
    fill(page, "model-name", str(tiny_models["sd1"]))
    fill(page, "adapter-rank", "2")
    recipe(page, "rank: 2", "steps: 100000", str(tiny_models["sd1"]))
    assert "lr:" not in page.locator("#yaml").inner_text()
    page.click("#others > button")
    for key, value in (("preview.every", "5"), ("preview.steps", "1"), ("training.log_every", "1")):
        page.click("#other input")
        page.keyboard.type(key)
        page.click(f"[role=option]:has-text('{key}: ')")
        page.wait_for_selector(f"#value >> text={key}")
        fill(page, "value", value)
        page.click("#set")
        recipe(page, f"{key.split('.')[1]}: {value}")
    page.reload()
    recipe(page, "rank: 2", "log_every: 1")  # the recipe is still there
    page.click("#start")
    page.wait_for_selector("#view .ft-strip img", timeout=2 * MINUTE)
    page.wait_for_selector("#view figure.chart")
    page.reload()
    tab(page, "Runs")
    page.wait_for_selector("#view .ft-running")
    page.click("#stop")
    page.wait_for_selector("#view >> text=interrupted")
    assert list((roots.folders[0] / "runs" / "mycat-lora" / "checkpoints").iterdir())
    page.click("#resume")
    page.wait_for_selector("#view .ft-running")
    page.click("#stop")
    page.wait_for_selector("#view >> text=interrupted")
    tab(page, "Play")
    fill(page, "prompt", "mycat")
    page.click("#source input")
    page.locator("[role=option]:has-text('mycat-lora, step')").last.click()
    fill(page, "play-num", "2")
    page.click("#go")
    page.wait_for_selector("#pictures img", timeout=2 * MINUTE)
    assert len(list((roots.folders[0] / "samples" / "play" / "0001").glob("mycat*.png"))) == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # also on a phone
