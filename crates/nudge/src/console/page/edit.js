// Edits a store at its owner, and says what that sent and what it made others fetch.

import { $, at, bytes, el, json, milliseconds, number, post, segment, write } from "./common.js";
import { entry } from "./cells.js";
import { hammer } from "./hammer.js";
import { onFrame, ownerOf, state } from "./stream.js";

const MAX_SHOWN_CHARS = 150; // of what was fetched

let store = null; // as its owner returned it
let waiting = null; // what was saved last: { entity, id, version }
let lastState = null; // of a store that was deleted, to bring it back

const path = (id) => at(ownerOf("store")?.name ?? "store-info", `/stores/${segment(id)}`);

export function tell(text, kind = "") {
  write($("result"), text, kind);
}

// Shows the form for this entity, if it is one that can be edited here.
export async function show(entity, id) {
  tell("");
  [$("hammered").hidden, $("wire").hidden, store] = [true, true, null];
  [$("edit").hidden, $("deleted").hidden] = [true, true];
  if (entity !== "store") return;
  try {
    fill((await json(path(id))).body);
  } catch (error) {
    if (error.status !== 410) return tell(error.message, "bad");
    if (lastState?.id !== id) lastState = { id, name: entry(entity, id).name ?? id };
    $("deleted").hidden = false;
  }
}

function fill(body) {
  store = body;
  $("name").value = store.name;
  $("fee").value = store.delivery_fee ?? "";
  $("minimum").value = store.min_order_amount ?? "";
  $("menus").value = (store.menus ?? []).map((menu) => `${menu.name}, ${menu.price}`).join("\n");
  $("open").checked = store.open;
  [$("edit").hidden, $("deleted").hidden] = [false, true];
}

const whole = (id) => ($(id).value === "" ? null : Number($(id).value));

function menus() {
  const lines = $("menus")
    .value.split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.map((line) => {
    const comma = line.lastIndexOf(",");
    return { name: line.slice(0, comma).trim(), price: Number(line.slice(comma + 1)) };
  });
}

const form = () => ({
  name: $("name").value,
  open: $("open").checked,
  menus: menus(),
  delivery_fee: whole("fee"),
  min_order_amount: whole("minimum"),
});

// Runs what a button does, with the buttons out of reach meanwhile.
async function run(action) {
  const buttons = document.querySelectorAll("#chosen button");
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (error) {
    tell(error.message, "bad");
  }
  for (const button of buttons) button.disabled = false;
}

async function save() {
  const before = store;
  const { body, response } = await post(path(store.id), form(), "application/merge-patch+json", "PATCH");
  fill(body);
  if (JSON.stringify(before) === JSON.stringify(body))
    return tell("Nothing has changed, so nothing was sent.");
  saved(response, "updated");
}

async function remove() {
  lastState = store;
  const { response } = await json(path(store.id), { method: "DELETE" });
  [$("edit").hidden, $("deleted").hidden] = [true, false];
  saved(response, "deleted");
}

async function bringBack() {
  const { body, response } = await post(path(lastState.id), lastState, "application/json", "PUT");
  fill(body);
  saved(response, "created");
}

// The owner has committed. The copies follow.
async function saved(response, change) {
  const token = response.headers.get("Nudge-Token");
  const id = decodeURIComponent(token.slice(token.indexOf("/") + 1, token.lastIndexOf("@")));
  waiting = { id, version: Number(token.slice(token.lastIndexOf("@") + 1)), change };
  [$("hammered").hidden, $("wire").hidden] = [true, true];
  showArrivals();
  await showWire(id, change);
}

async function showWire(id, change) {
  const sent = JSON.stringify({ id, change });
  const owner = ownerOf("store").name;
  // What each callback is answered for this entity.
  const answer = await post(at(owner, "/sync/v1/store/batch-get"), { ids: [id] }).catch(() => null);
  if (answer === null) return;
  const figure = (label, size, text) =>
    el(
      "div",
      "",
      {},
      el("dt", "", {}, label),
      el("dd", "", {}, el("strong", "", {}, bytes(size)), " ", el("code", "", {}, text)),
    );
  const item = JSON.stringify(answer.body.items[0]);
  const shown = item.length > MAX_SHOWN_CHARS ? `${item.slice(0, MAX_SHOWN_CHARS)}…` : item;
  $("wire").replaceChildren(
    figure("sent to everybody", new TextEncoder().encode(sent).length, sent),
    figure("fetched by each callback", new TextEncoder().encode(item).length, shown),
  );
  $("wire").hidden = false;
}

function showArrivals() {
  if (!waiting) return;
  const { id, version } = waiting;
  const steps = Object.entries(state.keys.get(`store/${id}`)?.by ?? {});
  const followers = state.services.filter((service) => service.follows.some((one) => one.entity === "store"));
  const there = steps.filter(([, step]) => step.version >= version);
  if (there.length < followers.length || there.length === 0) {
    const lacking = followers
      .map((service) => service.name)
      .filter((name) => !there.some(([one]) => one === name));
    return tell(
      `Committed as version ${version}. ${there.length} of ${followers.length} copies have it; not yet: ${lacking.join(", ")}.`,
    );
  }
  const slowest = Math.max(...there.map(([, step]) => step.lag_ms ?? 0));
  tell(
    `✓ All ${number(there.length)} copies have it: the last ${milliseconds(slowest)} after the commit.`,
    "good",
  );
  waiting = null;
}

export function start() {
  const on = (id, event, action) =>
    $(id).addEventListener(event, (happened) => {
      happened.preventDefault();
      run(action);
    });
  on("edit", "submit", save);
  on("delete", "click", remove);
  on("deleted", "submit", bringBack);
  on("hammer", "click", async () => {
    [waiting, $("wire").hidden] = [null, true];
    await hammer(path(store.id), store, tell);
    fill((await json(path(store.id))).body);
  });
  onFrame(showArrivals);
}
