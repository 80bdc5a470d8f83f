// What the console tells, in one stream: the services, and what happens to keys.

import { keyName, tellRefused } from "./common.js";

export const state = {
  connected: false,
  parts: [],
  services: [],
  chaos: null, // what is broken on purpose, where anything can be
  links: {},
  keys: new Map(), // "store/42" → { entity, id, by: { search: step } }; the last to change comes last
  moreKeys: 0,
  offsetMs: 0, // from the browser's clock to the console's
};

const MAX_KEYS = 200;
const listeners = [];

// Calls `listener` with each frame, after it has been taken into `state`.
export function onFrame(listener) {
  listeners.push(listener);
}

export const now = () => Date.now() + state.offsetMs;

// Who owns this kind of entity.
export const ownerOf = (entity) =>
  state.services.find((service) => service.owns.some((one) => one.entity === entity));

// Who follows it, and how they are with it.
export const followersOf = (entity) =>
  state.services.flatMap((service) =>
    service.follows.filter((one) => one.entity === entity).map((followed) => ({ service, followed })),
  );

export const entities = () => [
  ...new Set(state.services.flatMap((service) => service.owns.map((one) => one.entity))),
];

// What each subscriber told of each kind of entity since the frame before: ["search store", counts].
export const eachCount = (frame) =>
  Object.entries(frame.counts).flatMap(([name, counts]) =>
    Object.entries(counts).map(([entity, count]) => [`${name} ${entity}`, count]),
  );

function take(frame) {
  if (frame.snapshot) state.keys.clear();
  state.offsetMs = frame.now_us / 1000 - Date.now();
  if (frame.view) {
    state.parts = frame.view.parts;
    state.services = frame.view.services;
    state.chaos = frame.view.chaos ?? null;
  }
  state.links = frame.links ?? state.links;
  for (const key of frame.keys) {
    const name = keyName(key.entity, key.id);
    state.keys.delete(name);
    state.keys.set(name, key);
  }
  for (const oldest of state.keys.keys()) {
    if (state.keys.size <= MAX_KEYS) break;
    state.keys.delete(oldest);
  }
  state.moreKeys = frame.more_keys;
  for (const listener of listeners) listener(frame);
}

// Nobody looks at a hidden page, so it is told nothing.
let source = null;
let started = false;

function open() {
  source = new EventSource("api/stream");
  source.onmessage = (message) => {
    state.connected = true;
    take(JSON.parse(message.data));
  };
  source.onerror = () => {
    // The browser reconnects, and names the last frame that it got.
    state.connected = false;
    for (const listener of listeners) listener({ keys: [], counts: {} });
    if (source.readyState !== EventSource.CLOSED) return;
    tellRefused();
    setTimeout(reopen, 2000);
  };
}

function reopen() {
  source?.close();
  if (started && document.visibilityState === "visible") open();
}

export function stop() {
  [started, state.connected] = [false, false];
  source?.close();
}

export function start() {
  started = true;
  open();
  document.addEventListener("visibilitychange", reopen);
}
