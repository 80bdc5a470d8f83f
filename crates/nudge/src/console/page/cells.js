// Which version the owner and each subscriber hold of a key: asked, and kept current by the stream.

import { at, json, keyName, milliseconds, number, post, segment } from "./common.js";
import { followersOf, now, onFrame, ownerOf, state } from "./stream.js";

const MAX_KEPT = 500;
const NOT_OFFERED = [404, 405, 501];
const lacking = new Set(); // what a service has answered so

// "store/42" → { name, owner: { version, deleted, changedAt, message }, by: { search: { version, deleted, at, … } } }
const known = new Map();

export function entry(entity, id) {
  const key = keyName(entity, id);
  if (!known.has(key)) {
    known.set(key, { entity, id, name: null, owner: null, by: {} });
    if (known.size > MAX_KEPT) known.delete(known.keys().next().value);
  }
  return known.get(key);
}

// The owner has answered, or somebody holds a version that only the owner can have given.
function learnVersion(one, version, deleted, changedAt) {
  if (!version || one.owner?.version > version) return;
  if (one.owner?.version === version && one.owner.changedAt) return;
  one.owner = { ...one.owner, version, deleted, changedAt };
}

async function askOwner(entity, ids) {
  const owner = ownerOf(entity);
  if (!owner?.answers) return;
  const asked = post(at(owner.name, `/sync/v1/${entity}/batch-get`), { ids, fields: ["name"] });
  const log = optional(owner, `/sync/v1/${entity}/change-log`, ids);
  const items = (await asked.catch(() => null))?.body.items ?? [];
  for (const item of items) {
    const one = entry(entity, item.id);
    one.name = item.state?.name ?? one.name;
    one.asOf = item.version;
    if (item.status === "unknown") one.owner = { version: null };
    else learnVersion(one, item.version, item.status === "deleted", Date.parse(item.changed_at));
  }
  // An owner in another language need not have it.
  for (const item of (await log)?.body.items ?? []) {
    const one = entry(entity, item.id);
    if (one.owner) one.owner.message = item.message;
  }
}

// Asks for what a service in another language, or of another release, need not have. It is asked once.
async function optional(service, path, ids) {
  const route = `${service.name} ${path}`;
  if (lacking.has(route)) return null;
  return post(at(service.name, path), { ids }).catch((error) => {
    if (NOT_OFFERED.includes(error.status)) lacking.add(route);
    return null;
  });
}

async function askSubscriber(service, entity, ids) {
  const path = `/nudge/v1/keys/${entity}`;
  let items = (await optional(service, path, ids))?.body.items ?? [];
  if (lacking.has(`${service.name} ${path}`)) {
    const applied = (id) => json(at(service.name, `/nudge/v1/applied/${entity}/${segment(id)}`));
    const held = (id) =>
      applied(id).then(
        ({ body }) => ({ id, applied: body }),
        () => null,
      );
    items = (await Promise.all(ids.map(held))).filter(Boolean);
  }
  for (const item of items) {
    const one = entry(entity, item.id);
    const live = one.by[service.name];
    const version = item.applied?.version ?? null;
    // What was applied while this was asked is newer than the answer.
    if (live?.heardAt > performance.now() - 50 && live.version > version) continue;
    one.by[service.name] = {
      ...live,
      ...item,
      version,
      deleted: item.applied?.deleted ?? false,
      atMs: Date.parse(item.applied?.applied_at),
      retries: item.work?.attempts ?? 0,
    };
  }
}

// Asks everyone for these keys.
export async function refresh(entity, ids) {
  if (ids.length === 0) return;
  const followers = followersOf(entity).filter(({ service }) => service.answers);
  await Promise.all([
    askOwner(entity, ids),
    ...followers.map(({ service }) => askSubscriber(service, entity, ids)),
  ]);
}

function live(key) {
  const one = known.get(keyName(key.entity, key.id));
  if (!one) return;
  for (const [name, step] of Object.entries(key.by)) {
    const before = one.by[name] ?? { version: null };
    const after = { ...before, step, heardAt: performance.now(), state: stateOf(step) };
    if (step.version >= (before.version ?? 0)) {
      Object.assign(after, { version: step.version, deleted: step.deleted, atMs: step.ended_us / 1000 });
      learnVersion(one, step.version, step.deleted, step.ended_us / 1000 - (step.lag_ms ?? 0));
    }
    one.by[name] = after;
  }
}

const STATES = {
  retried: "retrying",
  dead_lettered: "dead_letter",
  received: "waiting",
  malformed: "waiting",
  fetched: "processing",
};

const stateOf = (step) => STATES[step.kind] ?? "idle";

const inSeconds = (time) => {
  const left = Date.parse(time) - now();
  return left > 0 ? `, next in ${milliseconds(left)}` : "";
};

// How late, since when the owner committed.
const late = (one) => (one.owner.changedAt ? ` ${milliseconds(now() - one.owner.changedAt)}` : "");

// How a subscriber is with a key: a mark, words, how bad it is, and what else there is to say.
export function cell(one, service, followed) {
  const mine = one.by[service.name];
  if (!service.answers) return ["✕", "away", "bad", `${service.name} does not answer`];
  if (!one.owner || !mine) return ["", "…", "", ""];
  const failed = mine.dead_letter?.error ?? mine.work?.error ?? mine.step?.detail ?? "";
  if (mine.state === "dead_letter") return ["✕", "dead letter", "bad", failed];
  if (mine.version !== null && mine.version >= one.owner.version) return equal(one, mine);
  if (one.owner.deleted && mine.version === null)
    return ["✓", "has none", "good", "deleted at its owner, and not here"];
  if (mine.state === "parked") return ["↻", `parked${inSeconds(mine.dead_letter?.next_at)}`, "warn", failed];
  if (mine.state === "retrying") {
    return [
      "↻",
      `retry ${mine.retries || mine.step?.retries || ""}${inSeconds(mine.work?.not_before)}`,
      "warn",
      failed,
    ];
  }
  if (!one.owner.version) return ["✓", "unknown, too", "good", ""];
  const lacks = mine.version === null ? "missing" : "behind";
  const has = `${service.name} has ${versionText(mine.version)}`;
  if (followed.paused) return ["‖", `${lacks}${late(one)}, paused`, "warn", has];
  return ["…", `${lacks}${late(one)}`, "warn", has];
}

// How long after its owner a subscriber committed what it has, in milliseconds: as it told then; else by the end of its last
// run, or by the time in its row, which is from before the commit.
export function lagOf(one, mine) {
  if (mine.step?.version === mine.version && mine.step.lag_ms !== null) return mine.step.lag_ms;
  const run = mine.runs?.at(-1);
  const committed = run?.version === mine.version ? Date.parse(run.ended_at) : mine.atMs;
  return one.owner.changedAt && committed ? committed - one.owner.changedAt : null;
}

function equal(one, mine) {
  const ms = lagOf(one, mine);
  // Applied again long after, after a comparison or a replay: that says nothing of how late it was.
  const after = ms !== null && ms >= 0 && ms < 600_000 ? `, ${milliseconds(ms)}` : "";
  const words = mine.deleted ? "deleted" : "equal";
  return ["✓", `${words}${after}`, "good", `${versionText(mine.version)}${after && " after the commit"}`];
}

export const versionText = (version) =>
  version ? `version ${number(version).replaceAll(",", " ")}` : "nothing";

// Whether all is equal, and its name is that of the newest version.
export const isSettled = (one) =>
  one.asOf === one.owner?.version &&
  followersOf(one.entity).every(({ service, followed }) => cell(one, service, followed)[2] === "good");

export function start() {
  onFrame((frame) => {
    if (frame.snapshot) for (const key of state.keys.values()) live(key);
    else frame.keys.forEach(live);
  });
}
