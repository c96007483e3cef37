// One question and its answer on the page: text as it comes, how fast it came, what went wrong, what can be done with it.

import { copyButton, element } from "./dom.js";
import { MarkdownView } from "./markdown.js";

/**
 * Args:
 *   question: the user's words.
 *   group: who answers.
 *   actions: { retry(), curl(), python() }; the latter two return texts.
 */
export class ExchangeView {
  #answer = new MarkdownView();
  #thoughts = new MarkdownView();
  #text = "";
  #reasoning = "";
  #frame = null;

  constructor(question, group, actions) {
    this.actions = actions;
    this.thinking = element("details", { class: "thoughts", hidden: true }, element("summary", {}, "Thoughts"), this.#thoughts.node);
    this.state = element("p", { class: "waiting" }, element("span", { class: "spinner" }), element("span", {}, "Reading the question"));
    this.figures = element("p", { class: "figures", hidden: true });
    this.foot = element("div", { class: "foot", hidden: true });
    this.trouble = element("div", { class: "trouble", hidden: true });
    const asked = element("div", { class: "question" }, element("h3", { class: "unseen" }, "You"), element("p", { dir: "auto" }, question));
    const answered = element("div", { class: "answer" }, element("h3", { class: "who", dir: "auto" }, group));
    answered.append(this.thinking, this.#answer.node, this.state, this.trouble, this.figures, this.foot);
    this.node = element("article", { class: "exchange writing", "aria-busy": "true" }, asked, answered);
  }

  get text() {
    return this.#text;
  }

  /** Begin once more, with nothing said yet. */
  restart() {
    this.#text = this.#reasoning = "";
    this.#draw();
    this.trouble.hidden = this.figures.hidden = this.foot.hidden = true;
    this.waiting("Reading the question");
    this.#busy(true);
  }

  /** Say what is waited for. */
  waiting(words) {
    this.state.hidden = false;
    this.state.lastChild.textContent = words;
  }

  add(text, reasoning = "") {
    this.#text += text;
    this.#reasoning += reasoning;
    this.state.hidden = Boolean(this.#text);
    if (!this.#text) this.waiting("Thinking");
    // One drawing per frame is enough, however fast the text comes. Pages in the background have no frames.
    this.#frame ??= requestAnimationFrame(() => this.#draw());
  }

  /** The answer is complete, or as complete as it will get. `figures` is a list of texts. */
  finish(figures) {
    this.#settle();
    this.figures.replaceChildren(...figures.map((figure) => element("span", {}, figure)));
    this.figures.hidden = !figures.length;
    this.#buttons(["Ask again"]);
  }

  /** `message` says what went wrong, `details` what may help whoever is asked about it. */
  fail(message, details = "") {
    this.#settle();
    const again = element("button", { type: "button", click: () => this.actions.retry() }, "Try again");
    this.trouble.replaceChildren(element("p", {}, message), again);
    if (details) this.trouble.insertBefore(element("p", { class: "details" }, details), again);
    this.trouble.hidden = false;
    if (this.#text) this.#buttons([]);
  }

  #settle() {
    this.#draw();
    this.state.hidden = true;
    this.#busy(false);
  }

  #busy(isBusy) {
    this.node.classList.toggle("writing", isBusy);
    this.node.setAttribute("aria-busy", String(isBusy));
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#answer.show(this.#text);
    this.#thoughts.show(this.#reasoning);
    this.thinking.hidden = !this.#reasoning;
  }

  #buttons(more) {
    const buttons = [
      copyButton("Copy", () => this.#text),
      copyButton("Copy as curl", () => this.actions.curl()),
      copyButton("Copy as Python", () => this.actions.python()),
      ...more.map((label) => element("button", { type: "button", class: "small again", click: () => this.actions.retry() }, label)),
    ];
    this.foot.replaceChildren(...buttons);
    this.foot.hidden = false;
  }
}
