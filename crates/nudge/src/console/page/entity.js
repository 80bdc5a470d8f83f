// The entity that was chosen: what can be done with it, its last change, its story.

import { $, at, el, json, keyName, list, post, segment, write } from "./common.js";
import { entry, refresh } from "./cells.js";
import * as edit from "./edit.js";
import * as timeline from "./timeline.js";
import { ownerOf } from "./stream.js";

const STORY_MS = 2000;

let current = null; // { entity, id }

export const chosen = () => (current ? keyName(current.entity, current.id) : null);

export async function choose(entity, id) {
  current = { entity, id };
  history.replaceState(null, "", `#${entity}/${segment(id)}`);
  $("chosen-empty").hidden = true;
  $("chosen-body").hidden = false;
  write($("chosen-key"), keyName(entity, id));
  write($("chosen-title"), entry(entity, id).name ?? "One entity");
  await Promise.all([refresh(entity, [id]), edit.show(entity, id), showStory()]);
  write($("chosen-title"), entry(entity, id).name ?? "One entity");
  timeline.show(current);
  $("chosen").scrollIntoView({ block: "nearest" });
}

// What owner, stream, queue, dead letters and read model hold of it, in words.
async function showStory() {
  const asked = current;
  let story = null;
  if (asked && document.visibilityState === "visible") {
    const path = `api/why/${asked.entity}/${segment(asked.id)}`;
    story = (await json(path).catch(() => null))?.body;
  }
  if (asked !== current) return;
  $("story").hidden = !story?.findings?.length;
  list(
    $("story-lines"),
    story?.findings ?? [],
    (one) => `${one.at} ${one.reason}`,
    () => el("li", "", {}, el("span"), el("code")),
    (line, one) => {
      const because = story.findings[story.because] === one;
      write(line.firstChild, `${because ? "The reason: " : ""}${one.at}: ${one.says}`);
      write(line.lastChild, one.todo ?? "");
      line.lastChild.hidden = !one.todo;
      line.className = because ? "because" : "";
    },
  );
}

async function again() {
  if (current) write($("chosen-title"), entry(current.entity, current.id).name ?? "One entity");
  await showStory();
  setTimeout(again, STORY_MS);
}

// A store with nothing but a name, to begin with.
async function make() {
  try {
    const { body } = await post(at(ownerOf("store").name, "/stores"), { name: "New store" });
    await choose("store", body.id);
    $("name").select();
  } catch (error) {
    edit.tell(error.message, "bad");
  }
}

export function start() {
  edit.start();
  timeline.start();
  $("new").addEventListener("click", make);
  const [entity, id] = location.hash.slice(1).split("/");
  if (entity && id) choose(entity, decodeURIComponent(id));
  again();
}
