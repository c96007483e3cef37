// Markdown into nodes. What a model writes is hostile: markup in it is shown as text, nothing is fetched, links go to
// http, https and mailto only, and no input takes more than about linear time or deep recursion.

import { copyButton, element } from "./dom.js";
import { inline } from "./inline.js";

const MAX_DEPTH = 8; // of quotes and lists within each other; what lies deeper is shown as it is written
const MAX_COLUMNS = 64;

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?=\s|$)/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}|$)/;
const DASHES = /^:?-+:?$/;

/** Shows a text that may still grow: blocks that have not changed stay as they are, with what is selected in them. */
export class MarkdownView {
  constructor() {
    this.node = element("div", { class: "markdown", dir: "auto" });
    this.#sources = [];
  }
  #sources;

  show(text) {
    const blocks = split(text.split("\n"));
    const same = blocks.findIndex((block, at) => block.source !== this.#sources[at]);
    const keep = same < 0 ? blocks.length : same;
    while (this.node.childNodes.length > keep) this.node.lastChild.remove();
    this.node.append(...blocks.slice(keep).map((block) => render(block, 0)));
    this.#sources = blocks.map((block) => block.source);
  }
}

/** The blocks of some lines; each knows the source it was made of. */
function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = read(lines, at);
    blocks.push({ ...block, source: lines.slice(at, block.end).join("\n") });
    at = block.end;
  }
  return blocks;
}

function read(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return readCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: headingText(line, heading), end: at + 1 };
  if (isRule(line)) return { kind: "rule", end: at + 1 };
  if (QUOTE.test(line)) return readQuote(lines, at);
  if (ITEM.test(line)) return readList(lines, at);
  if (isTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

function headingText(line, heading) {
  const text = line.slice(heading[0].length).trim();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end && text[end - 1] !== " " ? text : text.slice(0, end).trimEnd();
}

function isRule(line) {
  const marks = line.replaceAll(" ", "");
  return marks.length >= 3 && "-*_".includes(marks[0]) && marks === marks[0].repeat(marks.length);
}

function readCode(lines, start, [, marks, language]) {
  let at = start + 1;
  while (at < lines.length && !closes(lines[at], marks)) at += 1;
  const code = lines.slice(start + 1, at).join("\n");
  return { kind: "code", language, code, end: Math.min(at + 1, lines.length) };
}

function closes(line, marks) {
  const text = line.trim();
  return text.length >= marks.length && text === marks[0].repeat(text.length);
}

function readQuote(lines, start) {
  let at = start;
  while (at < lines.length && QUOTE.test(lines[at])) at += 1;
  return { kind: "quote", lines: lines.slice(start, at).map((line) => line.replace(QUOTE, "")), end: at };
}

function readList(lines, start) {
  const isNumbered = /\d/.test(ITEM.exec(lines[start])[2]);
  const items = [];
  let at = start;
  while (at < lines.length) {
    const marker = ITEM.exec(lines[at]);
    if (!marker || /\d/.test(marker[2]) !== isNumbered || isRule(lines[at])) break;
    const item = readItem(lines, at, marker);
    items.push(item.lines);
    at = item.end;
  }
  const first = isNumbered ? Number.parseInt(ITEM.exec(lines[start])[2], 10) : null;
  return { kind: "list", first, items, end: at };
}

/** An item goes on while lines are indented as far as its text; blank lines belong to it when such a line follows. */
function readItem(lines, start, [marks, spaces]) {
  const indent = Math.max(marks.length, spaces.length + 2);
  const found = [lines[start].slice(marks.length)];
  let at = start + 1;
  for (; at < lines.length; at += 1) {
    const line = lines[at];
    const depth = line.length - line.trimStart().length;
    if (!line.trim()) {
      const next = nextText(lines, at);
      if (next < 0 || indentOf(lines[next]) < Math.min(indent, 2)) break;
      found.push("");
    } else if (depth >= Math.min(indent, 2)) found.push(line.slice(Math.min(depth, indent)));
    else if (begins(line) || !found.at(-1).trim()) break;
    else found.push(line);
  }
  return { lines: found, end: skipBlank(lines, at) };
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function nextText(lines, at) {
  while (at < lines.length && !lines[at].trim()) at += 1;
  return at < lines.length ? at : -1;
}

/** Blank lines between two items do not end the list. */
function skipBlank(lines, at) {
  const next = nextText(lines, at);
  return next >= 0 && ITEM.test(lines[next]) ? next : at;
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || ITEM.test(line) || isRule(line);
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length || !lines[at + 1].includes("-")) return false;
  const dashes = cells(lines[at + 1]);
  return dashes.length === cells(lines[at]).length && dashes.every((cell) => DASHES.test(cell));
}

function readTable(lines, start) {
  let at = start + 2;
  while (at < lines.length && lines[at].includes("|") && !begins(lines[at])) at += 1;
  const aligns = cells(lines[start + 1]).map(alignment);
  return { kind: "table", aligns, head: cells(lines[start]), rows: lines.slice(start + 2, at).map(cells), end: at };
}

function alignment(dashes) {
  if (!dashes.endsWith(":")) return "start";
  return dashes.startsWith(":") ? "center" : "end";
}

function cells(line) {
  const found = [""];
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\" && text[at + 1] === "|") (found[found.length - 1] += "|"), (at += 1);
    else if (text[at] === "|") found.push("");
    else found[found.length - 1] += text[at];
  }
  if (!found.at(-1).trim() && found.length > 1) found.pop();
  return found.slice(0, MAX_COLUMNS).map((cell) => cell.trim());
}

function readParagraph(lines, start) {
  let at = start + 1;
  while (at < lines.length && lines[at].trim() && !begins(lines[at]) && !isTable(lines, at)) at += 1;
  return { kind: "paragraph", lines: lines.slice(start, at), end: at };
}

function render(block, depth) {
  return SHAPES[block.kind](block, depth);
}

function within(lines, depth) {
  if (depth >= MAX_DEPTH) return [element("p", {}, lines.join("\n"))];
  return split(lines).map((block) => render(block, depth + 1));
}

const SHAPES = {
  paragraph: ({ lines }) => element("p", {}, ...inline(lines.map((line) => line.trim()).join("\n"))),
  // The page's own headings are the first two levels.
  heading: ({ level, text }) => element(`h${Math.min(level + 2, 6)}`, {}, ...inline(text)),
  rule: () => element("hr"),
  quote: ({ lines }, depth) => element("blockquote", {}, ...within(lines, depth)),
  list: ({ first, items }, depth) => {
    const list = first === null ? element("ul") : element("ol", { start: first });
    list.append(...items.map((lines) => element("li", {}, ...tight(within(lines, depth)))));
    return list;
  },
  table: ({ aligns, head, rows }) => {
    const row = (name, texts) =>
      element("tr", {}, ...aligns.map((align, at) => element(name, { class: align }, ...inline(texts[at] ?? ""))));
    const table = element("table", {}, element("thead", {}, row("th", head)));
    table.append(element("tbody", {}, ...rows.map((texts) => row("td", texts))));
    return element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Table" }, table);
  },
  code: ({ language, code }) => {
    const head = element("figcaption", {}, element("span", {}, language || "text"), copyButton("Copy", () => code));
    const body = element("pre", { tabindex: "0", dir: "ltr" }, element("code", {}, code));
    return element("figure", { class: "code" }, head, body);
  },
};

/** An item that is one paragraph needs no paragraph around its words. */
function tight(nodes) {
  const [first, ...rest] = nodes;
  return first?.nodeName === "P" ? [...first.childNodes, ...rest] : nodes;
}
