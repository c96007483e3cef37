"""What a model writes is hostile: it may look like anything, but it runs nothing, loads nothing and goes nowhere."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.page.conftest import Open, Served
from tests.page.served import HOSTILE
from tests.page.test_page import ask, copied

ALLOWED = {
    "P",
    "H3",
    "H4",
    "H5",
    "H6",
    "UL",
    "OL",
    "LI",
    "BLOCKQUOTE",
    "HR",
    "BR",
    "TABLE",
    "THEAD",
    "TBODY",
    "TR",
    "TH",
}
ALLOWED |= {"TD", "DIV", "FIGURE", "FIGCAPTION", "SPAN", "BUTTON", "PRE", "CODE", "STRONG", "EM", "S", "A"}


def test_hostile_text_is_shown_and_does_nothing(page: Page, served: Served):
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    exchange = ask(page, "hostile")
    answer = exchange.locator(".markdown").last
    expect(answer).to_contain_text("<script>window.stolen = 1</script>")
    assert set(answer.locator("*").evaluate_all("nodes => nodes.map((node) => node.tagName)")) <= ALLOWED
    attributes = answer.locator("*").evaluate_all(
        "nodes => nodes.flatMap((node) => [...node.attributes].map(({ name }) => name))"
    )
    assert set(attributes) <= {
        "class",
        "href",
        "title",
        "target",
        "rel",
        "tabindex",
        "dir",
        "role",
        "aria-label",
        "type",
    }
    targets = answer.locator("a").evaluate_all("nodes => nodes.map((node) => [node.protocol, node.rel, node.target])")
    assert targets
    assert all(target == ["https:", "noopener noreferrer nofollow", "_blank"] for target in targets)
    assert answer.locator("a a").count() == 0
    for scheme in ("javascript:", "data:", "vbscript:", "file:"):
        expect(answer).to_contain_text(scheme)  # as words
    assert page.evaluate("window.stolen") is None
    assert {request.url.split("/")[2] for request in asked} == {f"127.0.0.1:{served.port}"}
    assert page.locator("#key").count() == 1


def test_a_hostile_question_and_name_are_words_too(page: Page):
    exchange = ask(page, "<img src=x onerror='window.stolen=1'> hostile")
    expect(exchange.locator(".question")).to_contain_text("<img src=x onerror=")
    assert exchange.locator("img").count() == 0
    assert page.evaluate("window.stolen") is None


def test_copying_gives_the_models_own_text(open_page: Open):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    exchange = ask(page, "hostile")
    assert copied(page, exchange, "Copy") == HOSTILE


def test_the_policy_lets_nothing_in_should_all_else_fail(browser: Browser, served: Served):
    page = browser.new_page()
    page.goto(served.url)
    blocked = page.evaluate(
        """async () => {
            const tried = {};
            try { document.body.innerHTML += "<b>x</b>"; tried.markup = true } catch { tried.markup = false }
            try { await fetch("https://evil.example/"); tried.fetch = true } catch { tried.fetch = false }
            const image = new Image();
            tried.image = await new Promise((resolve) => {
                image.onload = () => resolve(true);
                image.onerror = () => resolve(false);
                image.src = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=";
            });
            return tried;
        }"""
    )
    page.close()
    assert blocked == {"markup": False, "fetch": False, "image": False}


PATHOLOGICAL = {
    "brackets": "[" * 50_000,
    "links": "[a](" * 12_000,
    "stars": "*a " * 20_000,
    "pairs": "**a* " * 10_000,
    "ticks": "".join("`" * (n % 300 + 1) + " " for n in range(600)),
    "quotes": "\n".join(">" * n + " x" for n in range(200)),
    "lists": "\n".join("  " * n + "- x" for n in range(400)),
    "cells": "|".join("a" * 2 for _ in range(5000)) + "\n" + "|".join("-" * 3 for _ in range(5000)),
    "underscores": "_" * 50_000,
    "fences": "```\n" * 5_000,
    "spaces": "# " + " " * 50_000 + "x",
}


@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_no_text_keeps_the_page_busy(page: Page, kind: str):
    began = time.monotonic()
    page.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("./page/markdown.js");
            const view = new MarkdownView();
            view.show(text);
            document.querySelector("#log").append(view.node);
        }""",
        PATHOLOGICAL[kind],
    )
    assert time.monotonic() - began < 10
    assert page.locator("#log > .markdown").count() == 1
