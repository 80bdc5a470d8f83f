// Many edits of one store, as fast as its owner takes them, and how few callbacks they lead to.

import { $, el, number, post, write } from "./common.js";
import { followersOf, state } from "./stream.js";

const AT_A_TIME = 4; // a browser opens six connections; the stream and the grid need some
const SETTLE_MS = 10_000;
const LOOK_MS = 100;

const counts = (id) => {
  const by = state.keys.get(`store/${id}`)?.by ?? {};
  return Object.fromEntries(Object.entries(by).map(([name, step]) => [name, { ...step }]));
};

// Changes the delivery fee as often as the button says, the last time to what it was.
export async function hammer(path, store, tell) {
  const before = counts(store.id);
  const edits = Number($("hammer").dataset.edits);
  const fee = store.delivery_fee ?? 0;
  const began = performance.now();
  let next = 0;
  let last = 0;
  async function edit(value) {
    const { response } = await post(path, { delivery_fee: value }, "application/merge-patch+json", "PATCH");
    last = Math.max(last, Number(response.headers.get("ETag").replaceAll('"', "")));
  }
  async function worker() {
    while (next < edits - 1) {
      next += 1;
      if (next % 50 === 0) tell(`${number(next)} of ${number(edits)} edits…`);
      await edit(fee + next);
    }
  }
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
  await edit(store.delivery_fee ?? null);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  tell(`${number(edits)} edits committed in ${seconds} s. Waiting for the copies…`);
  await settled(store.id, last);
  tell(`✓ ${number(edits)} edits committed in ${seconds} s.`, "good");
  show(store.id, edits, before, last);
}

async function settled(id, version) {
  const until = performance.now() + SETTLE_MS;
  const followers = followersOf("store").length;
  const there = () => Object.values(counts(id)).filter((step) => step.version >= version).length;
  while (there() < followers && performance.now() < until) {
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function show(id, edits, before, last) {
  const of = (name, field, after) => Math.max(0, after[field] - (before[name]?.[field] ?? 0));
  const lines = Object.entries(counts(id)).map(([name, after]) => {
    const callbacks = of(name, "fetched", after);
    const shared = callbacks > 0 ? Math.round(edits / callbacks) : 0;
    const heard = `${number(of(name, "received", after))} notifications heard`;
    const asked = `${number(callbacks)} callbacks, ${number(shared)} edits shared each`;
    const there = after.version >= last ? "has the last" : "has not got the last yet";
    return el("li", "", {}, `${name}: ${heard}; ${asked}; ${there}`);
  });
  write($("hammered"), "");
  $("hammered").append(el("ul", "", {}, ...lines));
  $("hammered").hidden = false;
}
