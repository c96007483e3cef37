// The line above everything that says when the service is not there, and when it is back.

const SECONDS = 3; // that good news stay
const WORDS = {
  away: ["trouble", "The service does not answer. Trying again every second\u2026"],
  unready: ["notice", "The service is there, but no group can answer yet. This page goes on as soon as one can."],
  locked: ["notice", "This service asks for an API key. Enter it under Settings."],
  refused: ["notice", "The API key is not one of this service's."],
};

export class Banner {
  #wasAway = false;
  #timer = null;

  constructor(node) {
    this.node = node;
  }

  /** `state` is the connection's, or "refused" where a key was sent and is none. */
  show(state) {
    if (state in WORDS) this.#say(...WORDS[state]);
    else if (this.#wasAway) this.#say("good", "The service is back.", SECONDS);
    else if (!this.#timer) this.node.hidden = true;
    this.#wasAway = state === "away" || state === "unready";
  }

  #say(kind, words, seconds = 0) {
    clearTimeout(this.#timer);
    this.#timer = seconds ? setTimeout(() => this.#end(), 1000 * seconds) : null;
    this.node.className = kind;
    if (this.node.textContent !== words) this.node.textContent = words;
    this.node.hidden = false;
  }

  #end() {
    this.#timer = null;
    this.node.hidden = true;
  }
}
