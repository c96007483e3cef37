// The status view: each group with its state, its model and how busy it is, drawn anew after every look.

import { drawing, element } from "./dom.js";

const KEPT = 90; // looks that the curves go back
const STATES = { ready: "Ready", loading: "Loading", unavailable: "Not available" };

export class StatusView {
  #cards = new Map();

  constructor(service, groups) {
    this.service = service;
    this.groups = groups;
  }

  show({ state, status }) {
    this.service.textContent = summary(state, status);
    this.groups.classList.toggle("stale", state === "away" || state === "locked");
    if (!status || state === "away" || state === "locked") return;
    for (const [name, card] of this.#cards) {
      if (status.groups.some((group) => group.consumer_group === name)) continue;
      card.node.remove();
      this.#cards.delete(name);
    }
    for (const group of status.groups) this.#card(group.consumer_group).show(group);
  }

  #card(name) {
    if (!this.#cards.has(name)) {
      const card = new Card(name);
      this.#cards.set(name, card);
      this.groups.append(card.node);
    }
    return this.#cards.get(name);
  }
}

function summary(state, status) {
  if (state === "away") return "The service does not answer. What is shown here is old.";
  if (state === "locked") return "An API key is needed.";
  if (!status) return "Asking\u2026";
  const ready = status.groups.filter((group) => group.state === "ready").length;
  const all = status.groups.length;
  return `Version ${status.version}, ${ready} of ${all} ${all === 1 ? "group" : "groups"} ready.`;
}

class Card {
  constructor(name) {
    this.badge = element("span", { class: "badge" });
    this.facts = element("dl", { class: "facts" });
    this.reason = element("p", { class: "reason", hidden: true });
    this.running = new Curve("Answering", (load) => load.running, count);
    this.waiting = new Curve("Waiting", (load) => load.waiting, count);
    this.memory = new Curve("KV cache in use", (load) => load.kv_cache_usage, percent, 1);
    this.load = element("div", { class: "load" }, this.running.node, this.waiting.node, this.memory.node);
    const head = element("div", { class: "card-head" }, element("h3", { dir: "auto" }, name), this.badge);
    this.node = element("section", { class: "card", "aria-label": `Group ${name}` }, head, this.reason, this.load, this.facts);
  }

  show(group) {
    this.badge.textContent = STATES[group.state];
    this.badge.className = `badge ${group.state}`;
    this.reason.textContent = group.reason;
    this.reason.hidden = !group.reason;
    this.facts.replaceChildren(...facts(group));
    this.load.hidden = !group.load;
    if (!group.load) return;
    for (const curve of [this.running, this.waiting, this.memory]) curve.add(group.load);
  }
}

function facts(group) {
  const number = (value) => value.toLocaleString("en");
  const rows = [
    ["Model", group.model_name],
    ["Runs on", group.device && `${group.device}, ${group.dtype}`],
    ["Longest sequence", group.max_sequence_length && `${number(group.max_sequence_length)} tokens`],
    ["At once", group.max_batch_size && `${number(group.max_batch_size * group.replicas)} sequences`],
    ["Replicas", group.replicas > 1 && number(group.replicas)],
    ["KV cache", group.load && `${number(group.load.kv_cache_tokens)} tokens`],
  ];
  return rows.filter(([, value]) => value).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

function count(value) {
  return value.toLocaleString("en");
}

function percent(value) {
  return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;
}

/** A number with the way it came: what it is now in words, what it was as a line. */
class Curve {
  #past = [];

  constructor(label, read, write, full = 0) {
    Object.assign(this, { read, write, full });
    this.value = element("dd");
    this.line = drawing("polyline", { fill: "none", "vector-effect": "non-scaling-stroke" });
    this.area = drawing("polygon", {});
    const picture = drawing("svg", { viewBox: `0 0 ${KEPT - 1} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
    picture.append(this.area, this.line);
    this.node = element("dl", { class: "curve" }, element("dt", {}, label), this.value, picture);
  }

  add(load) {
    const value = this.read(load);
    this.value.textContent = this.write(value);
    this.#past = [...this.#past, value].slice(-KEPT);
    const top = this.full || Math.max(4, ...this.#past);
    const start = KEPT - this.#past.length;
    const points = this.#past.map((past, at) => `${start + at},${(96 - (92 * past) / top).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
    this.area.setAttribute("points", [`${start},100`, ...points, `${KEPT - 1},100`].join(" "));
  }
}
