// The page: puts its parts together. Each part knows its own corner only.

import { getKey, setKey } from "./api.js";
import { Banner } from "./banner.js";
import { Chat } from "./chat.js";
import { Connection } from "./connection.js";
import { Follower } from "./follower.js";
import { Settings } from "./settings.js";
import { StatusView } from "./status.js";
import { startTheme } from "./theme.js";

const THEIRS = "Looking for a model\u2026";
const by = (id) => document.getElementById(id);

const connection = new Connection();
const settings = new Settings(by("parameters"));
const chat = new Chat(by("log"), settings, connection);
const statusView = new StatusView(by("service"), by("groups"));
const banner = new Banner(by("banner"));
const follower = new Follower(by("scroller"), by("log"), by("to-end"));

startTheme(by("theme"));

// --- groups and connection ---------------------------------------------------------------------------------------

connection.addEventListener("change", () => {
  showGroups();
  banner.show(connection.state === "locked" && getKey() ? "refused" : connection.state);
  askForKey();
  statusView.show(connection);
  showButtons();
});

function showGroups() {
  const groups = connection.status?.groups ?? [];
  const picker = by("group");
  const names = groups.map((group) => group.consumer_group);
  if (names.join("\n") !== [...picker.options].map((option) => option.value).join("\n") && names.length) {
    const chosen = names.includes(picker.value) ? picker.value : (readyGroup(groups) ?? names[0]);
    picker.replaceChildren(...names.map((name) => new Option(name, name)));
    picker.value = chosen;
  }
  picker.disabled = names.length === 0;
  for (const option of picker.options) {
    const group = groups.find(({ consumer_group }) => consumer_group === option.value);
    if (group) option.textContent = group.state === "ready" ? option.value : `${option.value} (${group.state})`;
  }
  by("dot").className = `dot ${connection.state === "live" ? (chosenGroup()?.state ?? "") : connection.state}`;
  by("about").textContent = about(chosenGroup());
}

function readyGroup(groups) {
  return groups.find((group) => group.state === "ready")?.consumer_group;
}

function chosenGroup() {
  return connection.status?.groups.find((group) => group.consumer_group === by("group").value);
}

function about(group) {
  if (!group) return connection.state === "connecting" ? THEIRS : "No model is there to be asked.";
  if (group.state !== "ready") return `The group ${group.consumer_group} is not ready yet. ${group.reason}`;
  return `${group.model_name} on ${group.device}, up to ${group.max_sequence_length.toLocaleString("en")} tokens.`;
}

/** A service that asks for a key gets the field for it opened, once. */
let hasAsked = false;

function askForKey() {
  if (connection.state !== "locked" || hasAsked) return;
  hasAsked = true;
  openSettings(true);
  by("key").focus();
}

by("group").addEventListener("change", showGroups);

// --- chat --------------------------------------------------------------------------------------------------------

chat.addEventListener("change", () => {
  by("welcome").hidden = !chat.isEmpty;
  showButtons();
  follower.follow();
});

function showButtons() {
  const question = by("question").value.trim();
  by("send").disabled = !question || !by("group").value || connection.state === "locked" || !connection.status;
  by("send").hidden = chat.isAnswering;
  by("stop").hidden = !chat.isAnswering;
  by("new-chat").disabled = chat.isEmpty;
}

async function send(question) {
  const wrong = settings.check();
  if (wrong) {
    openSettings(true);
    wrong.focus();
    return;
  }
  by("question").value = "";
  grow();
  follower.catchUp();
  const answering = chat.ask(question, by("group").value);
  announce("Answering");
  await answering;
  announce(chat.last ? `Answer: ${chat.last.view.text || "none"}` : "");
}

function announce(words) {
  by("announcer").textContent = words;
}

by("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!by("send").disabled && !chat.isAnswering) send(by("question").value.trim());
});

by("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  by("composer").requestSubmit();
});

by("question").addEventListener("input", () => {
  showButtons();
  grow();
});

by("stop").addEventListener("click", () => {
  chat.stop();
  by("question").focus();
});

by("new-chat").addEventListener("click", () => {
  chat.clear();
  location.hash = "#chat";
  by("question").focus();
});

for (const button of by("examples").querySelectorAll("button")) {
  button.addEventListener("click", () => {
    by("question").value = button.textContent;
    showButtons();
    grow();
    by("question").focus();
    by("composer").requestSubmit();
  });
}

function grow() {
  const question = by("question");
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

// --- views and settings ------------------------------------------------------------------------------------------

const isWide = matchMedia("(min-width: 70rem)");
let wantsSettings = true;

function showView() {
  const isStatus = location.hash === "#status";
  by("chat").hidden = isStatus;
  by("status").hidden = !isStatus;
  by(isStatus ? "to-status" : "to-chat").setAttribute("aria-current", "page");
  by(isStatus ? "to-chat" : "to-status").removeAttribute("aria-current");
  if (isStatus !== connection.isWatched) openSettings(!isStatus && isWide.matches && wantsSettings);
  connection.isWatched = isStatus;
  connection.look();
}

function openSettings(isOpen) {
  by("settings").hidden = !isOpen;
  by("to-settings").setAttribute("aria-expanded", String(isOpen));
  freeze();
}

/** Where the settings lie over the rest, nobody shall get lost behind them. */
function freeze() {
  const isCovered = !by("settings").hidden && !isWide.matches;
  for (const part of document.querySelectorAll("header, main")) part.inert = isCovered;
}
isWide.addEventListener("change", freeze);

function closeSettings() {
  openSettings(false);
  if (!connection.isWatched) wantsSettings = false;
  by("to-settings").focus();
}

by("to-settings").addEventListener("click", () => {
  const isOpen = by("settings").hidden;
  openSettings(isOpen);
  if (!connection.isWatched) wantsSettings = isOpen;
  if (isOpen && !isWide.matches) by("close-settings").focus();
});
by("close-settings").addEventListener("click", closeSettings);

by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(by("key").value.trim());
  connection.look();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (!by("settings").hidden && !isWide.matches) closeSettings();
  else chat.stop();
});

by("key").value = getKey();
window.addEventListener("hashchange", showView);
openSettings(isWide.matches);
showView();
by("question").focus();
