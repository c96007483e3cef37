// What stands within a line of Markdown: code, emphasis, links. Text in, nodes out; see markdown.js for the rules.

import { element } from "./dom.js";

const MAX_DEPTH = 6;
const MAX_ADDRESS = 2000; // characters of a link's target
const ESCAPED = /[!-/:-@[-`{-~]/;
const BARE = /https?:\/\/[^\s<>"'`\u200e\u200f\u202a-\u202e\u2066-\u2069]{1,2000}/y;
const EMPHASIS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "s"],
  ["*", "em"],
  ["_", "em"],
];

/** The nodes of a text. */
export function inline(text, depth = 0) {
  return new Reader(text, depth).read();
}

class Reader {
  #nodes = [];
  #plain = "";
  #at = 0;
  #missing = new Set(); // closing marks that were looked for and do not come any more
  #brackets = null;

  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
  }

  read() {
    while (this.#at < this.text.length) {
      if (!this.#special()) this.#plain += this.text[this.#at++];
    }
    this.#flush();
    return this.#nodes;
  }

  #special() {
    switch (this.text[this.#at]) {
      case "\n":
        return this.#push(element("br"), this.#at + 1);
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "!":
      case "[":
        return this.#link();
      case "*":
      case "_":
      case "~":
        return this.#emphasis();
      case "h":
        return this.#bareLink();
      default:
        return false;
    }
  }

  #push(node, next) {
    this.#flush();
    this.#nodes.push(node);
    this.#at = next;
    return true;
  }

  #flush() {
    if (this.#plain) this.#nodes.push(this.#plain);
    this.#plain = "";
  }

  #escape() {
    const next = this.text[this.#at + 1];
    if (!next || !ESCAPED.test(next)) return false;
    this.#plain += next;
    this.#at += 2;
    return true;
  }

  #code() {
    let end = this.#at;
    while (this.text[end] === "`") end += 1;
    const marks = this.text.slice(this.#at, end);
    const close = this.#missing.has(marks) ? -1 : findRun(this.text, marks, end);
    if (close < 0) {
      this.#missing.add(marks);
      this.#plain += marks;
      this.#at = end;
      return true;
    }
    const code = this.text.slice(end, close).replaceAll("\n", " ");
    const isPadded = code.startsWith(" ") && code.endsWith(" ") && code.trim();
    return this.#push(element("code", {}, isPadded ? code.slice(1, -1) : code), close + marks.length);
  }

  #emphasis() {
    for (const [mark, name] of EMPHASIS) {
      if (!this.text.startsWith(mark, this.#at)) continue;
      const close = this.depth < MAX_DEPTH && this.#opens(mark) ? this.#findClose(mark) : -1;
      if (close < 0) continue;
      const inner = inline(this.text.slice(this.#at + mark.length, close), this.depth + 1);
      return this.#push(element(name, {}, ...inner), close + mark.length);
    }
    return false;
  }

  #opens(mark) {
    const after = this.text[this.#at + mark.length];
    const isWord = mark[0] === "_" && /[\p{L}\p{N}_]/u.test(this.text[this.#at - 1] ?? "");
    return after !== undefined && !/\s/.test(after) && !isWord && !this.#missing.has(mark);
  }

  #findClose(mark) {
    let close = this.text.indexOf(mark, this.#at + mark.length + 1);
    while (close >= 0 && !this.#closes(mark, close)) close = this.text.indexOf(mark, close + 1);
    if (close < 0) this.#missing.add(mark);
    return close;
  }

  #closes(mark, at) {
    const before = this.text[at - 1];
    const after = this.text[at + mark.length] ?? "";
    if (/\s/.test(before) || before === "\\") return false;
    if (mark.length === 1 && (after === mark || before === mark)) return false;
    return mark[0] !== "_" || !/[\p{L}\p{N}_]/u.test(after);
  }

  #link() {
    const isImage = this.text[this.#at] === "!";
    const open = this.#at + Number(isImage);
    if (this.text[open] !== "[" || this.depth >= MAX_DEPTH) return false;
    this.#brackets ??= pairs(this.text);
    const close = this.#brackets.get(open);
    if (close === undefined || this.text[close + 1] !== "(") return false;
    const end = endOfAddress(this.text, close + 2);
    if (end < 0) return false;
    const [target] = this.text.slice(close + 2, end).trim().split(/\s/, 1);
    const label = this.text.slice(open + 1, close);
    const node = anchor(target, isImage ? [label || "image"] : inline(label, MAX_DEPTH));
    if (!node) return false;
    if (isImage) node.prepend("\u{1F5BC} "); // nothing is fetched: a picture is a link to it
    return this.#push(node, end + 1);
  }

  #bareLink() {
    if (this.depth >= MAX_DEPTH || /[\p{L}\p{N}]/u.test(this.text[this.#at - 1] ?? "")) return false;
    BARE.lastIndex = this.#at;
    let target = BARE.exec(this.text)?.[0];
    if (!target) return false;
    while (/[.,:;!?*_~)\]]/.test(target.at(-1)) && !(target.at(-1) === ")" && target.includes("("))) {
      target = target.slice(0, -1);
    }
    const node = anchor(target, [target]);
    return node ? this.#push(node, this.#at + target.length) : false;
  }
}

function findRun(text, marks, from) {
  for (let at = text.indexOf(marks, from); at >= 0; ) {
    let end = at;
    while (text[end] === "`") end += 1;
    if (end - at === marks.length) return at;
    at = text.indexOf(marks, end);
  }
  return -1;
}

/** Which bracket closes which. */
function pairs(text) {
  const open = [];
  const found = new Map();
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length) found.set(open.pop(), at);
  }
  return found;
}

function endOfAddress(text, from) {
  let depth = 0;
  const limit = Math.min(text.length, from + MAX_ADDRESS);
  for (let at = from; at < limit && text[at] !== "\n"; at += 1) {
    if (text[at] === "(" && ++depth > MAX_DEPTH) return -1;
    if (text[at] === ")" && depth-- === 0) return at;
  }
  return -1;
}

/** A link that tells nobody where it was followed from; null where the target is none of the web's. */
function anchor(target, children) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const attributes = { href: url.href, title: url.href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", attributes, ...children);
}
