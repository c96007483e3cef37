// The conversation: what was said, what is being asked now, and how each answer is fetched.

import { Lost, Refusal, address, getKey, streamChat } from "./api.js";
import { ExchangeView } from "./exchange.js";
import { asCurl, asPython } from "./snippets.js";
import { Stopwatch } from "./stopwatch.js";

const RETRY_SECONDS = 1; // should the service say that it is there, and still not take a question

/** Sends the event "change" when it begins or ends to answer. */
export class Chat extends EventTarget {
  #exchanges = [];
  #current = null; // what can be aborted

  constructor(log, settings, connection) {
    super();
    this.log = log;
    this.settings = settings;
    this.connection = connection;
  }

  get isAnswering() {
    return this.#current !== null;
  }

  get isEmpty() {
    return this.#exchanges.length === 0;
  }

  get last() {
    return this.#exchanges.at(-1);
  }

  ask(question, group) {
    const exchange = { question, group, answer: "" };
    const curl = () => asCurl(address("v1/chat/completions"), exchange.body, Boolean(getKey()));
    const python = () => asPython(address("v1"), exchange.body, Boolean(getKey()));
    exchange.view = new ExchangeView(question, group, { retry: () => this.#retry(exchange), curl, python });
    this.#exchanges.push(exchange);
    this.log.append(exchange.view.node);
    return this.#answer(exchange);
  }

  stop() {
    this.#current?.abort();
  }

  clear() {
    this.stop();
    this.#exchanges = [];
    this.log.replaceChildren();
    this.#changed();
  }

  /** Only the last answer can be asked for again: later ones rest on it. */
  #retry(exchange) {
    if (this.isAnswering || this.settings.check()) return;
    const at = this.#exchanges.indexOf(exchange);
    for (const later of this.#exchanges.splice(at + 1)) later.view.node.remove();
    exchange.view.restart();
    this.#answer(exchange);
  }

  async #answer(exchange) {
    const current = (this.#current = new AbortController());
    exchange.answer = "";
    exchange.body = this.#body(exchange);
    this.#changed();
    try {
      await this.#fetch(exchange, current.signal);
    } catch (error) {
      this.#fail(exchange, error, current.signal);
    } finally {
      exchange.answer = exchange.view.text;
      if (this.#current === current) this.#current = null;
      this.#changed();
    }
  }

  /** When nobody is there, waits until somebody is: nothing has been said that could be said twice. */
  async #fetch(exchange, signal) {
    for (;;) {
      try {
        return await this.#receive(exchange, signal);
      } catch (error) {
        if (!(error instanceof Lost) || exchange.view.text || signal.aborted) throw error;
        exchange.view.waiting("The service does not answer. Your question is sent again as soon as it does");
        this.connection.doubt();
        await pause(RETRY_SECONDS, signal);
        await this.connection.live(signal);
        exchange.view.waiting("Reading the question");
      }
    }
  }

  async #receive(exchange, signal) {
    const watch = new Stopwatch();
    for await (const chunk of streamChat(exchange.body, signal)) {
      const [choice] = chunk.choices;
      const { content = "", reasoning_content: reasoning = "" } = choice?.delta ?? {};
      if (content || reasoning) {
        watch.token();
        exchange.view.add(content, reasoning);
        this.#changed();
      }
      watch.note(chunk.usage, choice?.finish_reason);
    }
    exchange.view.finish(watch.figures());
  }

  #fail(exchange, error, signal) {
    if (signal.aborted) exchange.view.finish(["Stopped by you"]);
    else if (error instanceof Refusal) {
      const status = error.status >= 400 ? `Status ${error.status}` : ""; // none, once an answer had begun
      const id = error.requestId ? `Request ${error.requestId}` : "";
      exchange.view.fail(error.message, [status, id].filter(Boolean).join(" \u00b7 "));
    } else exchange.view.fail(error.message);
    if (error instanceof Refusal || error instanceof Lost) this.connection.look();
  }

  #body({ question, group }) {
    const messages = [];
    if (this.settings.system) messages.push({ role: "system", content: this.settings.system });
    for (const past of this.#exchanges) {
      if (!past.answer) continue; // a question without an answer is not part of what was said
      messages.push({ role: "user", content: past.question }, { role: "assistant", content: past.answer });
    }
    messages.push({ role: "user", content: question });
    const stream = { stream: true, stream_options: { include_usage: true } };
    return { model: group, messages, ...this.settings.fields(), ...stream };
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
