"""The page on the real service: the real model answers, stops when told to, and the status view sees it at work."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.launch.launched import Launched
from tests.page.conftest import Open
from tests.page.test_page import ask


@pytest.fixture
def page(service: Launched, open_page: Open) -> Page:
    expect.set_options(timeout=20_000)  # a real model on a machine that others use
    return open_page(f"http://127.0.0.1:{service.ports['PORT']}/")


def test_the_model_answers_in_several_turns_and_remembers_what_it_computed(page: Page):
    page.get_by_label("Max tokens").fill("24")
    page.get_by_label("Temperature").fill("0")
    first = ask(page, "What is the capital of France?")
    expect(first.locator(".markdown").last).to_contain_text("Paris")
    expect(first.locator(".figures")).to_contain_text(re.compile(r"First token .* tokens/s.* in, \d+ out"))
    second = ask(page, "And of Italy?")
    expect(second.locator(".figures")).to_contain_text(re.compile(r"\d+ \(\d+ cached\) in, \d+ out"))


def test_an_answer_takes_the_shape_that_was_asked_for(page: Page):
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    page.get_by_label("JSON schema").fill(json.dumps(schema))
    text = ask(page, "What is the capital of Italy?").locator(".markdown").last.text_content()
    assert json.loads(text or "")["city"] in ("Paris", "Rome")


def test_a_schema_that_cannot_be_enforced_is_refused_by_name(page: Page):
    page.get_by_label("JSON schema").fill('{"type": "array", "uniqueItems": true}')
    expect(ask(page, "List three colours.").locator(".trouble")).to_contain_text("uniqueItems")


def test_the_status_sees_an_answer_begin_and_end(page: Page):
    group = page.get_by_role("region", name="Group primary")
    answering = group.locator(".curve").filter(has_text="Answering").locator("dd")
    ask(page, "Count from 1 to 2000, one number a line.", wait=False)
    page.get_by_role("link", name="Status").click()
    expect(answering).to_have_text("1")
    expect(group.locator(".curve").filter(has_text="KV cache").locator("dd")).not_to_have_text("0.0%")
    page.keyboard.press("Escape")
    expect(answering).to_have_text("0")
