// Finds and edits a store, and shows how soon each subscriber has applied it.

import { lagSeen } from "./changes.js";
import { $, eachSubscriber, element, json, milliseconds, storePath, subscribers } from "./common.js";

const FIND_DELAY_MS = 120;
const MAX_FOUND = 4;

let chosen = null; // the store being edited, as its owner returned it
let race = null; // what was saved last, and which subscribers have it

async function find() {
  const wanted = $("find").value.trim();
  const path = wanted === ""
    ? `api/store-info/stores?limit=${MAX_FOUND}`
    : `api/search/stores?limit=${MAX_FOUND}&q=${encodeURIComponent(wanted)}`;
  let items = [];
  try {
    items = (await json(path)).body.items;
  } catch { /* An empty list says it. */ }
  if ($("find").value.trim() !== wanted) return;
  const list = items.map((store) => {
    const button = element("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(store.id === chosen?.id));
    const name = element("span", "", store.name);
    name.lang = "ko";
    button.append(name, element("span", "meta", `${store.region ?? ""} ${store.open ? "open" : "closed"}`));
    button.addEventListener("click", () => choose(store.id));
    const item = element("li");
    item.append(button);
    return item;
  });
  $("found").replaceChildren(...(list.length > 0 ? list : [element("li", "hint", "nothing found")]));
}

async function choose(id) {
  try {
    chosen = (await json(storePath(id))).body;
  } catch (error) {
    return tell(error.message, true);
  }
  $("edit-id").textContent = chosen.id;
  $("name").value = chosen.name;
  $("open").checked = chosen.open;
  $("edit").hidden = false;
  tell("");
  find();
}

function tell(text, bad = false) {
  $("result").textContent = text;
  $("result").className = bad ? "bad" : "";
}

async function save(submitted) {
  submitted.preventDefault();
  const button = $("edit").querySelector("button");
  button.disabled = true;
  $("race").hidden = true;
  try {
    const { body, response } = await json(storePath(chosen.id), {
      method: "PATCH",
      headers: { "Content-Type": "application/merge-patch+json" },
      body: JSON.stringify({ name: $("name").value, open: $("open").checked }),
    });
    const token = response.headers.get("Nudge-Token");
    const version = token.slice(token.lastIndexOf("@") + 1);
    const same = body.name === chosen.name && body.open === chosen.open;
    chosen = body;
    if (same) return tell("Nothing has changed, so nothing was published.");
    tell(`Saved as version ${version}.`);
    startRace(token, chosen.id, version);
  } catch (error) {
    tell(error.message, true);
  } finally {
    button.disabled = false;
  }
}

function addToRace(subscriber) {
  const line = element("li");
  line.id = `race-${subscriber}`;
  const bar = element("span", "bar");
  bar.append(element("i"));
  line.append(element("span", "who", subscriber), bar, element("output", "", ""));
  $("race").append(line);
}

function startRace(token, id, version) {
  race = { id, version, missing: new Set(subscribers), among: new Set(subscribers), slowest: 1 };
  $("race").hidden = false;
  for (const subscriber of subscribers) {
    const line = $(`race-${subscriber}`);
    line.querySelector("output").textContent = "…";
    line.querySelector(".bar").classList.add("waiting");
    line.querySelector("i").style.width = "";
    // Its event may have come before the answer to the save.
    const seen = lagSeen(subscriber, id, version);
    if (seen !== undefined) showArrival(subscriber, seen);
    else waitFor(subscriber, token, version);
  }
}

// In case the event stream was cut just then.
async function waitFor(subscriber, token, version) {
  const query = new URLSearchParams({ token, timeout_ms: "8000" });
  const began = performance.now();
  let reached = true;
  await json(`api/${subscriber}/nudge/v1/wait?${query}`).catch(() => { reached = false; });
  const waited = performance.now() - began;
  setTimeout(() => {
    if (race?.version !== version || !race.missing.has(subscriber)) return;
    if (reached) showArrival(subscriber, waited);
    else $(`race-${subscriber}`).querySelector("output").textContent = "not yet";
  }, 500);
}

// Called for every change that a subscriber has applied.
export function arrived(subscriber, event, ms) {
  if (race && race.id === event.id && race.version === String(event.version)) showArrival(subscriber, ms);
}

function showArrival(subscriber, ms) {
  if (!race.missing.delete(subscriber)) return;
  const line = $(`race-${subscriber}`);
  line.querySelector("output").textContent = milliseconds(ms);
  line.querySelector(".bar").classList.remove("waiting");
  line.dataset.ms = ms;
  race.slowest = Math.max(race.slowest, ms);
  for (const other of [...race.among].filter((name) => !race.missing.has(name))) {
    const share = Number($(`race-${other}`).dataset.ms) / race.slowest;
    $(`race-${other}`).querySelector("i").style.width = `${Math.max(4, 100 * share)}%`;
  }
  if (race.missing.size === 0) find();
}

let finding;

// Makes the form work.
export function start() {
  eachSubscriber(addToRace);
  $("find").addEventListener("input", () => {
    clearTimeout(finding);
    finding = setTimeout(find, FIND_DELAY_MS);
  });
  $("edit").addEventListener("submit", save);
  find();
}
