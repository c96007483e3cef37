"""The page in real Chromium: asking, stopping, settings, errors, reconnecting, keys, narrow and dark screens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.page.conftest import Open, Served


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    locked = Served("sk-right")
    locked.start()
    yield locked
    locked.stop()


def ask(page: Page, question: str, *, wait: bool = True) -> Locator:
    """Ask with the keyboard; return the exchange, complete unless told otherwise."""
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    exchange = page.locator(".exchange").last
    expect(exchange.locator(".question")).to_contain_text(question)
    if wait:
        expect(exchange).not_to_have_class(re.compile("writing"))
    return exchange


def reached_backend(exchange: Locator) -> dict[str, Any]:
    """What the echoing backend was asked."""
    text = exchange.locator("pre code").text_content()
    assert text is not None
    asked: dict[str, Any] = json.loads(text)
    return asked


def copied(page: Page, exchange: Locator, label: str) -> str:
    button = exchange.locator(".foot button").nth(["Copy", "Copy as curl", "Copy as Python"].index(label))
    expect(button).to_have_text(label)
    button.click()
    expect(button).to_have_text("Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def is_in_sight(locator: Locator) -> bool:
    return bool(
        locator.evaluate(
            """node => {
                const { left, right } = node.getBoundingClientRect();
                return left >= 0 && right <= innerWidth + 1;
            }"""
        )
    )


def test_an_empty_page_says_who_can_be_asked_and_offers_questions(page: Page):
    expect(page.get_by_role("heading", name="What would you like to ask?")).to_be_visible()
    expect(page.locator("#about")).to_have_text("HuggingFaceTB/SmolLM2-135M-Instruct on cpu, up to 2,048 tokens.")
    expect(page.get_by_label("Consumer group").locator("option")).to_have_text(["primary", "second", "third (loading)"])
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_role("button", name="Compare TCP and UDP in a table.").click()
    expect(page.locator(".question")).to_contain_text("Compare TCP and UDP")
    expect(page.locator("#welcome")).to_be_hidden()


def test_an_answer_is_streamed_and_measured(page: Page):
    exchange = ask(page, "slow")
    expect(exchange.locator(".markdown").last).to_have_text("One two three.")
    expect(exchange).to_have_attribute("aria-busy", "false")
    figures = exchange.locator(".figures span").all_text_contents()
    assert re.fullmatch(r"First token \d+ ms", figures[0])
    assert re.fullmatch(r"\d+\.\d tokens/s", figures[1])
    assert figures[2] == "7 (4 cached) in, 3 out"
    expect(page.locator("#announcer")).to_have_text("Answer: One two three.")


def test_the_conversation_so_far_goes_along_but_what_failed_does_not(page: Page):
    ask(page, "slow")
    ask(page, "refuse")
    page.get_by_label("System prompt").fill("Be brief.")
    exchange = ask(page, "And now?")
    assert reached_backend(exchange)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "slow"},
        {"role": "assistant", "content": "One two three."},
        {"role": "user", "content": "And now?"},
    ]
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".exchange")).to_have_count(0)
    assert len(reached_backend(ask(page, "Once more"))["messages"]) == 2


def test_settings_reach_the_engine_and_the_chosen_group_is_asked(page: Page):
    page.get_by_label("Consumer group").select_option("second")
    for label, value in {"Temperature": "0.5", "Top p": "0.9", "Top k": "40", "Max tokens": "64", "Seed": "7"}.items():
        page.get_by_label(label).fill(value)
    page.get_by_label("JSON schema").fill('{"type": "object"}')
    exchange = ask(page, "Hello")
    expect(exchange.locator(".who")).to_have_text("second")
    assert reached_backend(exchange)["sampling_parameters"] == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 64,
        "seed": 7,
        "grammar": {"json_schema": {"type": "object"}, "is_lenient": False},
    }
    page.get_by_role("button", name="Back to the model's own").click()
    assert reached_backend(ask(page, "Hello again"))["sampling_parameters"] == {}


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("Temperature", "3", "At most 2, please."),
        ("Top p", "0", "More than 0, please."),
        ("Top k", "1.5", "A whole number, please."),
        ("Max tokens", "0", "At least 1, please."),
        ("JSON schema", "{", "This is not JSON"),
        ("JSON schema", "[]", "A schema is a JSON object."),
    ],
)
def test_a_wrong_setting_is_said_beside_its_field_and_nothing_is_sent(page: Page, label: str, value: str, words: str):
    field = page.get_by_label(label)
    field.fill(value)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile(re.escape(words)))
    page.locator("#question").fill("Hello")
    page.locator("#question").press("Enter")
    expect(field).to_be_focused()
    expect(page.locator(".exchange")).to_have_count(0)
    expect(page.locator("#question")).to_have_value("Hello")


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_an_answer_can_be_stopped_and_what_came_so_far_stays(page: Page, served: Served, how: str):
    exchange = ask(page, "endless", wait=False)
    expect(exchange.locator(".markdown").last).to_contain_text("word3")
    expect(exchange).to_have_attribute("aria-busy", "true")
    if how == "button":
        page.get_by_role("button", name="Stop answering").click()
    else:
        page.keyboard.press("Escape")
    expect(exchange.locator(".figures")).to_have_text("Stopped by you")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    messages = reached_backend(ask(page, "Go on"))["messages"]
    assert messages[1]["content"].startswith("word0 word1 word2 word3 ")


def test_thoughts_stand_apart_from_the_answer(page: Page):
    exchange = ask(page, "think")
    expect(exchange.locator("details")).to_contain_text("Let me see.")
    expect(exchange.locator(".markdown").last).to_have_text("It is 4.")


def test_an_answer_that_the_limit_cut_says_so(page: Page):
    expect(ask(page, "cut off").locator(".figures")).to_contain_text("Cut off at the token limit")


def test_an_answer_without_a_word_is_complete_too(page: Page):
    expect(ask(page, "silence").locator(".figures")).to_have_text("3 in, 1 out")


def test_a_refusal_shows_the_services_own_sentence_and_can_be_tried_again(page: Page):
    exchange = ask(page, "refuse")
    trouble = exchange.locator(".trouble")
    expect(trouble).to_contain_text("'temperature' is not to my liking.")
    expect(trouble).to_contain_text(re.compile("Status 400 . Request [0-9a-f]{32}"))
    exchange.get_by_role("button", name="Try again").click()
    expect(trouble).to_contain_text("not to my liking")
    expect(page.locator(".exchange")).to_have_count(1)


def test_an_answer_that_breaks_off_keeps_what_came_and_says_why(page: Page):
    exchange = ask(page, "break")
    expect(exchange.locator(".markdown").last).to_have_text("So far and")
    expect(exchange.locator(".trouble")).to_contain_text("ended its answer early")


def test_a_request_can_be_copied_as_curl_and_as_python_and_both_work(open_page: Open):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Top k").fill("3")
    page.get_by_label("JSON schema").fill('{"type": "object", "additionalProperties": false}')
    exchange = ask(page, 'It\'s "quoted" $HOME `x` \\ \N{SNOWMAN}')
    expected = exchange.locator("pre code").text_content() or ""
    curl = subprocess.run(["bash", "-c", copied(page, exchange, "Copy as curl")], capture_output=True, check=True)
    chunks = [json.loads(line[6:]) for line in curl.stdout.decode().splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert text == f"```json\n{expected}\n```"
    program = copied(page, exchange, "Copy as Python")
    python = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert python.stdout.decode() == text
    assert copied(page, exchange, "Copy") == text


def test_copying_works_on_pages_without_a_clipboard_of_their_own(open_page: Open):
    """Browsers give none to pages without TLS, such as those of another machine in the same network."""
    page = open_page(ready=False)
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.reload()
    expect(page.locator("#dot")).to_have_class("dot ready")
    exchange = ask(page, "slow")
    exchange.get_by_role("button", name="Copy", exact=True).click()
    expect(exchange.get_by_role("button", name="Copied")).to_be_visible()
    page.locator("#question").press("Control+v")
    expect(page.locator("#question")).to_have_value("One two three.")


def test_a_browser_that_keeps_nothing_shows_the_page_all_the_same(open_page: Open, locked: Served):
    page = open_page(locked.url, ready=False)
    page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError") } })"""
    )
    page.reload()
    page.get_by_label("API key").fill("sk-right")
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#dot")).to_have_class("dot ready")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert reached_backend(ask(page, "Hello"))["messages"]


@pytest.fixture
def own(served: Served) -> Iterator[Served]:
    """A service that the test may stop."""
    own = Served()
    own.start()
    yield own
    own.stop()


def test_the_page_says_when_the_service_goes_and_goes_on_when_it_comes_back(open_page: Open, own: Served):
    page = open_page(own.url)
    exchange = ask(page, "endless", wait=False)
    expect(exchange.locator(".markdown").last).to_contain_text("word3")
    own.stop()
    banner = page.locator("#banner")
    expect(banner).to_contain_text("The service does not answer.", timeout=10_000)
    expect(exchange.locator(".trouble")).to_contain_text("The connection was lost before the answer was complete.")
    waiting = ask(page, "Are you there?", wait=False)
    expect(waiting.locator(".waiting")).to_contain_text("Your question is sent again as soon as it does")
    own.start()
    expect(banner).to_have_text("The service is back.", timeout=10_000)
    assert reached_backend(waiting)["messages"][-1]["content"] == "Are you there?"
    expect(banner).to_be_hidden(timeout=10_000)


def test_a_service_that_takes_no_questions_is_not_overrun_with_them(page: Page):
    """The status is answered, so that each question would be sent again at once."""
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route("**/v1/chat/completions", refuse)
    exchange = ask(page, "Are you there?", wait=False)
    page.wait_for_timeout(2500)
    assert 2 <= len(asked) <= 4
    page.unroute("**/v1/chat/completions")
    assert reached_backend(exchange)["messages"]


def test_waiting_for_a_service_that_is_away_can_be_stopped(open_page: Open, own: Served):
    page = open_page(own.url)
    own.stop()
    exchange = ask(page, "Are you there?", wait=False)
    expect(exchange.locator(".waiting")).to_contain_text("sent again")
    page.keyboard.press("Escape")
    expect(exchange.locator(".figures")).to_have_text("Stopped by you")


def test_a_key_is_asked_for_and_kept_in_this_tab_only(open_page: Open, locked: Served):
    page = open_page(locked.url, ready=False)
    expect(page.locator("#banner")).to_have_text("This service asks for an API key. Enter it under Settings.")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("sk-wrong")
    field.press("Enter")
    expect(page.locator("#banner")).to_have_text("The API key is not one of this service's.")
    field.fill("sk-right")
    field.press("Enter")
    expect(page.locator("#dot")).to_have_class("dot ready")
    expect(page.locator("#banner")).to_be_hidden()
    assert reached_backend(ask(page, "Hello"))["messages"]
    assert page.evaluate("[document.cookie, JSON.stringify(localStorage)]") == ["", "{}"]
    page.reload()
    expect(page.locator("#dot")).to_have_class("dot ready")
    other = page.context.new_page()
    other.goto(locked.url)
    expect(other.locator("#banner")).to_contain_text("asks for an API key")


def test_a_copied_request_names_no_key(open_page: Open, locked: Served):
    page = open_page(locked.url, ready=False, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("API key").fill("sk-right")
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#dot")).to_have_class("dot ready")
    exchange = ask(page, "Hello")
    for label in ("Copy as curl", "Copy as Python"):
        text = copied(page, exchange, label)
        assert "sk-right" not in text
        assert "SLIPSTREAM_API_KEY" in text


def test_the_status_shows_each_group(page: Page):
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#service")).to_have_text("Version 0.1.0, 2 of 3 groups ready.")
    first = page.get_by_role("region", name="Group primary")
    expect(first).to_contain_text("Ready")
    expect(first).to_contain_text("HuggingFaceTB/SmolLM2-135M-Instruct")
    expect(first.locator(".curve").first).to_contain_text(re.compile("Answering ?0"))
    expect(first.locator(".curve").last).to_contain_text("KV cache in use")
    expect(first.locator("polyline").first).to_have_attribute("points", re.compile(r"\d \d"))  # more than one look
    expect(page.get_by_role("region", name="Group third")).to_contain_text("Loading")
    expect(page.locator("#chat")).to_be_hidden()
    page.go_back()
    expect(page.locator("#chat")).to_be_visible()


def test_everything_can_be_done_with_the_keyboard(page: Page):
    page.keyboard.press("Shift+Tab")  # back from the question, to which the page puts the focus
    page.keyboard.press("Shift+Tab")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"question", "group", "to-chat", "to-status", "theme", "to-settings", "temperature", "schema", "key"} <= seen
    page.locator("#question").press("Shift+Enter")
    expect(page.locator("#question")).to_have_value("\n")


def test_every_control_has_a_name(page: Page):
    ask(page, "markdown")
    nameless = page.locator("button, input, select, textarea, a").evaluate_all(
        """nodes => nodes.filter((node) => node.checkVisibility()
            && !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).map((node) => node.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_narrow_screen_everything_is_in_sight(open_page: Open, width: int):
    page = open_page(viewport={"width": width, "height": 700})
    expect(page.locator("#settings")).to_be_hidden()
    ask(page, "markdown")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in page.locator("header :is(button, select, a), #send").all():
        assert is_in_sight(control)
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Temperature")).to_be_visible()
    assert is_in_sight(page.locator("#settings"))
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    expect(page.get_by_role("button", name="Settings", exact=True)).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_systems_colours_until_told_otherwise(open_page: Open, scheme: Any):
    page = open_page(color_scheme=scheme)
    dark = "rgb(16, 20, 21)"
    paper = "getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(paper) == dark) == (scheme == "dark")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert (page.evaluate(paper) == dark) == (scheme == "light")
    page.reload()
    assert (page.evaluate(paper) == dark) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_told_from_what_they_stand_on(open_page: Open, scheme: Any):
    """WCAG 2.2 AA: 4.5 to 1, for each pair of colours that the style sheet puts on one another."""
    page = open_page(color_scheme=scheme)
    pairs = [("ink", "paper"), ("soft", "paper"), ("soft", "raised"), ("soft", "sunken"), ("accent", "paper")]
    pairs += [("on-accent", "accent"), ("ink", "tint"), *((kind, f"{kind}-paper") for kind in ("bad", "warn", "good"))]
    ratios = page.evaluate(
        """pairs => {
            const probe = document.body.appendChild(document.createElement("i"));
            const luminance = (name) => {
                probe.style.color = `var(--${name})`;
                const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
                const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            return pairs.map(([over, under]) => {
                const [low, high] = [luminance(over), luminance(under)].sort((a, b) => a - b);
                return (high + 0.05) / (low + 0.05);
            });
        }""",
        pairs,
    )
    low = {pair: ratio for pair, ratio in zip(pairs, ratios, strict=True) if ratio < 4.5}
    assert low == {}


def test_a_file_is_sent_again_only_when_it_has_changed(served: Served):
    first = httpx.get(f"{served.url}page/page.js")
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(f"{served.url}page/page.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{served.url}page/..%2fserver.py").status_code == 404
    assert httpx.get(f"{served.url}page/nothing.js").json()["error"]["type"] == "invalid_request_error"
