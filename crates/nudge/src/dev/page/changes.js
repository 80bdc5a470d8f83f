// The changes, as reported by the subscribers.

import { $, eachSubscriber, element, json, milliseconds, storePath } from "./common.js";
import { light } from "./services.js";

const MAX_ROWS = 100;
const SLOW_MS = 50;
const MAX_NAMES_IN_FLIGHT = 4;

const rows = new Map(); // "entity/id@version" → row
const names = new Map(); // id → name
const columns = [];
let changes = 0;
let namesInFlight = 0;
let nameless = []; // rows that wait for their name, newest last
let onArrival = () => {};

function addCell(row, column) {
  const cell = element("td", "lag");
  row.cells.set(column, cell);
  row.line.append(cell);
}

// A column for a subscriber, also in the rows that are there.
function addColumn(name) {
  columns.push(name);
  const heading = element("th", "lag", name);
  heading.scope = "col";
  $("heading").append(heading);
  for (const row of rows.values()) addCell(row, name);
}

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
  );
  const row = { line, name, cells: new Map() };
  columns.forEach((column) => addCell(row, column));
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
  light("store-info");
  light("NATS");
  return row;
}

function askName(event, row) {
  if (event.entity !== "store") return;
  nameless = [...nameless.slice(1 - MAX_ROWS), { id: event.id, row }];
  nextName();
}

// A few at a time, newest first: the page must not load the services.
async function nextName() {
  if (namesInFlight >= MAX_NAMES_IN_FLIGHT || nameless.length === 0) return;
  const { id, row } = nameless.pop();
  namesInFlight += 1;
  try {
    const { body } = await json(storePath(id));
    if (names.size > 1000) names.clear();
    names.set(id, body.name);
    row.name.textContent = body.name;
  } catch { /* Deleted, or away: what was known has to do. */ }
  namesInFlight -= 1;
  nextName();
}

function onEvent(subscriber, event) {
  if (event.version === undefined) return;
  // A repetition of something that has left the table is not new.
  if (event.kind === "ignored" && !rows.has(`${event.entity}/${event.id}@${event.version}`)) return;
  const row = rowOf(event);
  const cell = row.cells.get(subscriber);
  // A subscriber that does not follow stores has no column.
  if (!cell) return;
  if (event.deleted && !row.line.classList.contains("deleted")) {
    row.line.classList.add("deleted");
    row.name.after(element("span", "mark", "deleted"));
  }
  // Until the owner has answered, it is unknown whether there is a name to ask for.
  if (!row.asked && (event.kind === "fetched" || event.kind === "applied")) {
    row.asked = true;
    if (!event.deleted) askName(event, row);
  }
  const done = cell.classList.contains("applied") || cell.classList.contains("dead_lettered");
  if (event.kind === "applied") {
    const ms = event.lag_seconds === undefined ? undefined : Math.max(0, event.lag_seconds * 1000);
    cell.textContent = ms === undefined ? "applied" : milliseconds(ms);
    cell.className = `lag applied ${ms > SLOW_MS ? "slow" : ""}`;
    light(subscriber);
    if (ms !== undefined) cell.dataset.ms = ms;
    onArrival(subscriber, event, ms ?? 0);
  } else if (event.kind === "dead_lettered" || event.kind === "retried") {
    cell.textContent = event.kind === "retried" ? "retrying" : "dead letter";
    cell.className = `lag ${event.kind}`;
    cell.title = event.detail ?? "";
  } else if (!done && !cell.classList.contains("retried")) {
    cell.textContent = event.kind === "ignored" ? "had it" : event.kind;
  }
}

// How long a subscriber took to apply a version, if its event has been seen.
export function lagSeen(subscriber, id, version) {
  const cell = rows.get(`store/${id}@${version}`)?.cells.get(subscriber);
  return cell?.dataset.ms === undefined ? undefined : Number(cell.dataset.ms);
}

// Follows the events, and calls `arrival` for each change that a subscriber has applied.
export function follow(arrival) {
  onArrival = arrival;
  eachSubscriber(addColumn);
  // The browser reconnects by itself.
  const source = new EventSource("api/events");
  source.addEventListener("told", (message) => {
    const { subscriber, event } = JSON.parse(message.data);
    if (event?.entity) onEvent(subscriber, event);
  });
}
