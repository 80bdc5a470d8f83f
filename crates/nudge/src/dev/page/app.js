// The console page. It talks to the console alone, which hands requests on to the services.
"use strict";

const SUBSCRIBERS = ["search", "review"];
const STATUS_INTERVAL_MS = 1000;
const FIND_DELAY_MS = 120;
const MAX_ROWS = 100;
const MAX_FOUND = 6;
const SLOW_MS = 50;
// When changes come faster than this, names are not asked for: the page must not become a load.
const MAX_NAMES_IN_FLIGHT = 4;

const $ = (id) => document.getElementById(id);
const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const milliseconds = (ms) =>
  ms < 99.95 ? `${ms.toFixed(1)} ms` : ms < 999.5 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;

async function json(path, options) {
  const response = await fetch(path, options);
  const body = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(body?.detail ?? body?.title ?? `status ${response.status}`);
  return { body, response };
}

// ---- services ----

const FIGURES = [
  ["applied", (e) => e.applied],
  ["lag", (e) => (e.last_progress ? milliseconds(e.lag_seconds * 1000) : "—")],
  ["queued", (e) => e.queued],
  ["working", (e) => e.processing],
  ["retrying", (e) => e.retrying + e.parked, true],
  ["dead letters", (e) => e.dead_letters, true],
];

function showState(part) {
  const state = document.querySelector(`#part-${CSS.escape(part.name)} .state`);
  if (!state) return;
  const restarts = part.restarts > 0 ? `, restarted ${part.restarts}×` : "";
  const text = (part.ready ? "ready" : "not ready") + restarts;
  // Only a real change, so that a screen reader is not told the same every second.
  if (state.textContent !== text) state.textContent = text;
  state.className = `state ${part.ready ? "good" : "bad"}`;
}

function showFigures(name, status) {
  const part = $(`part-${name}`);
  const entity = status?.entities?.find((one) => one.entity === "store");
  const list = part.querySelector(".figures");
  list.hidden = !entity;
  if (!entity) return;
  list.replaceChildren(...FIGURES.map(([label, value, ought0]) => {
    const shown = value(entity);
    const item = element("div", ought0 && shown > 0 ? "notable" : "");
    item.append(element("dt", "", label), element("dd", "", shown));
    return item;
  }));
  const trouble = part.querySelector(".trouble");
  const notes = [
    entity.paused && "paused",
    entity.breaker && entity.breaker !== "closed" && `breaker ${entity.breaker}`,
    entity.connected === false && "no connection to NATS",
    entity.last_error,
  ].filter(Boolean);
  trouble.textContent = notes.join(" · ");
  trouble.hidden = notes.length === 0;
}

async function refreshStatus() {
  const overall = $("overall");
  let text = "the console does not answer";
  let good = false;
  try {
    const { body } = await json("api/status");
    body.parts.forEach(showState);
    for (const name of SUBSCRIBERS) showFigures(name, body.subscribers[name]);
    const missing = body.parts.filter((part) => !part.ready).map((part) => part.name);
    good = missing.length === 0;
    text = good ? "all ready" : `not ready: ${missing.join(", ")}`;
  } catch { /* Told below. */ }
  if (overall.textContent !== text) overall.textContent = text;
  overall.className = `badge ${good ? "good" : "bad"}`;
  setTimeout(refreshStatus, STATUS_INTERVAL_MS);
}

function light(name) {
  const part = $(`part-${name}`);
  part.classList.add("lit");
  requestAnimationFrame(() => requestAnimationFrame(() => part.classList.remove("lit")));
}

// ---- changes ----

const rows = new Map(); // "entity/id@version" → row
const names = new Map(); // id → name
let changes = 0;
let namesInFlight = 0;

function rowOf(event) {
  const key = `${event.entity}/${event.id}@${event.version}`;
  const known = rows.get(key);
  if (known) return known;
  const line = element("tr");
  const store = element("td");
  const name = element("span", "name", names.get(event.id) ?? "");
  name.lang = "ko";
  store.append(name, element("span", "id", event.id));
  line.append(
    element("td", "", new Date().toLocaleTimeString([], { hour12: false })),
    store,
    element("td", "", `…${String(event.version).slice(-6)}`),
    ...SUBSCRIBERS.map(() => element("td", "lag")),
  );
  const row = { line, name, cells: [...line.querySelectorAll(".lag")] };
  rows.set(key, row);
  $("changes").querySelector(".empty")?.remove();
  $("changes").prepend(line);
  if (rows.size > MAX_ROWS) {
    const [oldest, gone] = rows.entries().next().value;
    rows.delete(oldest);
    gone.line.remove();
  }
  changes += 1;
  $("tally").textContent = `${changes} seen`;
  askName(event, row);
  light("store-info");
  light("NATS");
  return row;
}

async function askName(event, row) {
  if (event.entity !== "store" || namesInFlight >= MAX_NAMES_IN_FLIGHT) return;
  namesInFlight += 1;
  try {
    const { body } = await json(`api/store-info/stores/${encodeURIComponent(event.id)}`);
    if (names.size > 1000) names.clear();
    names.set(event.id, body.name);
    row.name.textContent = body.name;
  } catch { /* Deleted, or away: the id has to do. */ } finally {
    namesInFlight -= 1;
  }
}

function onEvent(subscriber, event) {
  if (event.version === undefined) return;
  const column = SUBSCRIBERS.indexOf(subscriber);
  const row = rowOf(event);
  const cell = row.cells[column];
  if (event.deleted) row.line.classList.add("deleted");
  const done = cell.classList.contains("applied") || cell.classList.contains("dead_lettered");
  if (event.kind === "applied") {
    const ms = event.lag_seconds === undefined ? undefined : Math.max(0, event.lag_seconds * 1000);
    cell.textContent = ms === undefined ? "applied" : milliseconds(ms);
    cell.className = `lag applied ${ms > SLOW_MS ? "slow" : ""}`;
    light(subscriber);
    arrived(subscriber, event, ms);
  } else if (event.kind === "dead_lettered" || event.kind === "retried") {
    cell.textContent = event.kind === "retried" ? "retrying" : "dead letter";
    cell.className = `lag ${event.kind}`;
    cell.title = event.detail ?? "";
  } else if (!done && !cell.classList.contains("retried")) {
    cell.textContent = event.kind === "ignored" ? "had it" : event.kind;
  }
}

function follow() {
  // The browser connects again by itself.
  const source = new EventSource("api/events");
  for (const subscriber of SUBSCRIBERS) {
    source.addEventListener(subscriber, (message) => onEvent(subscriber, JSON.parse(message.data)));
  }
}

// ---- editing ----

let chosen = null; // the store being edited, as its owner answered
let race = null; // what was saved last, and who has it

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
    chosen = (await json(`api/store-info/stores/${encodeURIComponent(id)}`)).body;
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
    const { body, response } = await json(`api/store-info/stores/${encodeURIComponent(chosen.id)}`, {
      method: "PATCH",
      headers: { "Content-Type": "application/merge-patch+json" },
      body: JSON.stringify({ name: $("name").value, open: $("open").checked }),
    });
    const token = response.headers.get("Nudge-Token");
    const version = token.slice(token.lastIndexOf("@") + 1);
    const same = body.name === chosen.name && body.open === chosen.open;
    chosen = body;
    if (same) return tell("Nothing has changed, so nobody was told.");
    tell(`Saved as version ${version}.`);
    startRace(token, chosen.id, version);
  } catch (error) {
    tell(error.message, true);
  } finally {
    button.disabled = false;
  }
}

function startRace(token, id, version) {
  race = { id, version, missing: new Set(SUBSCRIBERS), slowest: 1 };
  $("race").hidden = false;
  for (const subscriber of SUBSCRIBERS) {
    const line = $(`race-${subscriber}`);
    line.querySelector("output").textContent = "…";
    line.querySelector(".bar").classList.add("waiting");
    line.querySelector("i").style.width = "";
    // Its event may have come before the answer to the save.
    const cell = rows.get(`store/${id}@${version}`)?.cells[SUBSCRIBERS.indexOf(subscriber)];
    if (cell?.dataset.ms) showArrival(subscriber, Number(cell.dataset.ms));
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

function arrived(subscriber, event, ms) {
  const row = rows.get(`${event.entity}/${event.id}@${event.version}`);
  if (row && ms !== undefined) row.cells[SUBSCRIBERS.indexOf(subscriber)].dataset.ms = ms;
  if (race && race.id === event.id && race.version === String(event.version)) showArrival(subscriber, ms ?? 0);
}

function showArrival(subscriber, ms) {
  if (!race.missing.delete(subscriber)) return;
  const line = $(`race-${subscriber}`);
  line.querySelector("output").textContent = milliseconds(ms);
  line.querySelector(".bar").classList.remove("waiting");
  line.dataset.ms = ms;
  race.slowest = Math.max(race.slowest, ms);
  for (const other of SUBSCRIBERS.filter((name) => !race.missing.has(name))) {
    const share = Number($(`race-${other}`).dataset.ms) / race.slowest;
    $(`race-${other}`).querySelector("i").style.width = `${Math.max(4, 100 * share)}%`;
  }
  if (race.missing.size === 0) find();
}

let finding;
$("find").addEventListener("input", () => {
  clearTimeout(finding);
  finding = setTimeout(find, FIND_DELAY_MS);
});
$("edit").addEventListener("submit", save);
refreshStatus();
follow();
find();
