"""The live page in a real browser: it loads, follows the run, shows changes, and runs nothing that a model wrote."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.async_api import BrowserContext, Page, async_playwright, expect

from control_operations import TOKEN
from one_process_run import EVEN_TOTAL, SALTED
from ring_async.config.schema import ControlSection
from ring_async.control.api import make_app, serve
from ring_async.engines.tokenizer import load_tokenizer
from ring_async.models import resolve_model_path
from ring_async.records.trained_tokens import Fate, TrainedTokens
from ring_async.storage.run_dir import write_json
from ring_async.storage.trained_tokens import TrainedTokensFile
from ring_async.testing.builders import make_config, make_prompt
from ring_async.testing.one_process import CountingSource, OneProcessFleet
from ring_async.testing.scripted_engine import ScriptedResponse, seeded_script

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE_PROMPT = "<img src=x onerror=\"document.title='owned'\">\x1b]52;c;aGk=\x07\u202e</pre><script>alert(1)</script>"
HOSTILE_RESPONSE = "<answer><b>8</b></answer>"
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install it with: apt-get install chromium")

Talk = Callable[[OneProcessFleet, str, BrowserContext], Awaitable[None]]


def watched(runs: Path, talk: Talk) -> None:
    """Let `talk` look at the page of a fleet at work."""
    asyncio.run(_watched(runs, talk))


async def _watched(runs: Path, talk: Talk) -> None:
    tokenizer = load_tokenizer(resolve_model_path("builtin:tiny"))
    hostile = np.asarray(tokenizer.encode(HOSTILE_RESPONSE), dtype=np.int32)
    draw = seeded_script()

    def respond(request: Any) -> ScriptedResponse:
        return ScriptedResponse(hostile) if request.seed % 4 == 0 else draw(request)

    config = make_config(
        stop__policy_versions=1_000_000,
        rollout__group_size=4,
        rollout__max_tokens=32,
        budget__token_budget=128,
        learner__token_capacity=256,
        replay__map_size_bytes=64 << 20,
        checkpoint__every_versions=50,
        verifiers={"exact": {"use": EVEN_TOTAL}},
    )
    fleet = OneProcessFleet(config, runs, script=respond, token_s=0.02, train_s=0.3)
    write_json(fleet.run_dir.config, config.model_dump(mode="json"))
    running = asyncio.create_task(fleet.run())
    while "controller-0" not in fleet.actors:
        await asyncio.sleep(0.01)
    control = ControlSection()
    async with serve(make_app(fleet.controller, TOKEN, "test", control), control) as url, async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            await talk(fleet, url, await browser.new_context())
        finally:
            await browser.close()
            fleet.controller.shut_down("seen enough", 5.0)
            await running


@pytest.fixture(autouse=True)
def hostile_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    def prompt(self: CountingSource, index: int) -> Any:
        return make_prompt(f"{self.name}/{index}", source=self.name, text=HOSTILE_PROMPT)

    monkeypatch.setattr(CountingSource, "prompt", prompt)


async def open_page(url: str, context: BrowserContext) -> tuple[Page, list[str]]:
    """The page through a link that works once; complaints of the browser gather in the list."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{url}/v1/page/link", headers={"authorization": f"Bearer {TOKEN}"})
    page, complaints = await context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    await page.goto(url + answer.json()["path"])
    return page, complaints


def test_the_page_follows_a_run_shows_a_swap_and_runs_nothing_a_model_wrote(tmp_path: Path):
    async def talk(fleet: OneProcessFleet, url: str, context: BrowserContext) -> None:
        page, complaints = await open_page(url, context)
        await expect(page.locator("#state")).to_contain_text("running, version", timeout=30_000)
        assert "code" not in page.url
        await expect(page.locator("#actors tr")).to_have_count(4)
        words = await page.locator("#state").inner_text()
        await expect(page.locator("#state")).not_to_contain_text(words.partition(" of ")[0] + " of", timeout=60_000)
        label = page.locator("#chart-reward")
        await expect(label).to_have_attribute("aria-label", re.compile("sums"), timeout=30_000)

        await page.click("#tab-changes")
        await page.fill("#swap [name=name]", "exact")
        await page.fill("#swap [name=use]", SALTED)
        await page.click("#swap button >> nth=0")
        await expect(page.locator("#change-state")).to_contain_text("Done: exact is", timeout=30_000)
        await page.fill("#scale [name=num]", "0")
        await page.evaluate("document.querySelector('#scale').noValidate = true")
        await page.click("#scale button")
        await expect(page.locator("#change-state")).to_contain_text("Refused", timeout=30_000)
        await page.click("#tab-fleet")
        await expect(page.locator("#events")).to_contain_text("verifier swapped", timeout=30_000)

        await page.click("#tab-samples")
        await page.click("#filters button")
        await expect(page.locator("#samples-state")).to_contain_text("groups", timeout=120_000)
        shown = await page.locator("#groups").inner_text()
        assert "<img src=x onerror=" in shown
        assert "␛]52;c;aGk=␇�</pre><script>" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
        assert await page.locator("#groups img, #groups script, #groups b >> text=8").count() == 0
        assert await page.locator("#groups .t").count() > 10
        await _look_at_ratios(fleet, page)
        assert await page.title() != "owned"
        assert [one for one in complaints if "status of 422" not in one] == []  # that was the size of 0

    watched(tmp_path, talk)


async def _look_at_ratios(fleet: OneProcessFleet, page: Page) -> None:
    """Ratios that the learner kept are shaded, and the arrow keys read a token's numbers."""
    found = await page.evaluate("fetch('/page/samples?num=20').then((answer) => answer.json())")
    responses = [one for group in found["groups"] for one in group["responses"]]
    kept = [
        TrainedTokens(
            one["trajectory_id"],
            1,
            0,
            np.full(one["num_tokens"], 0.5, "<f4").tobytes(),
            bytes([Fate.MASKED] * one["num_tokens"]),
        )
        for one in responses
    ]
    TrainedTokensFile(fleet.run_dir.trained_tokens).append(kept)
    await page.check("#filters [name=is_trained]")
    await page.click("#filters button")
    await expect(page.locator("#shade")).to_contain_text("ratio", timeout=60_000)
    await page.select_option("#shade", "ratio")
    await expect(page.locator("#groups .b4.masked").first).to_be_visible()
    await page.locator(".response pre").first.focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#token-figures")).to_contain_text("ratio 0.5, left out by the correction")


def test_a_stranger_sees_nothing_and_the_token_lets_in(tmp_path: Path):
    async def talk(fleet: OneProcessFleet, url: str, context: BrowserContext) -> None:
        page = await context.new_page()
        await page.goto(url)
        await expect(page.locator("#login")).to_be_visible(timeout=30_000)
        await expect(page.locator("#content")).to_be_hidden()
        await page.fill("#token", "wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#login-problem")).to_contain_text("not the token", timeout=30_000)
        await page.fill("#token", TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#content")).to_be_visible(timeout=30_000)

    watched(tmp_path, talk)


def test_it_fits_a_phone_and_needs_no_mouse(tmp_path: Path):
    async def talk(fleet: OneProcessFleet, url: str, context: BrowserContext) -> None:
        page, complaints = await open_page(url, context)
        await page.set_viewport_size(PHONE)
        await expect(page.locator("#actors tr")).to_have_count(4, timeout=30_000)
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        await page.locator("#tab-fleet").focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#samples")).to_be_visible()
        await expect(page.locator("#tab-samples")).to_have_attribute("aria-selected", "true")
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#changes")).to_be_visible()
        unnamed = (
            "[...document.querySelectorAll('input, select')].filter(one => !one.labels.length && !one.ariaLabel).length"
        )
        assert await page.evaluate(unnamed) == 0
        assert complaints == []

    watched(tmp_path, talk)
