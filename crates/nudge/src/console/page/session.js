// Who looks. Where tokens are asked for, a person logs in with one; the console keeps it, and the page forgets it.

import { $, json, milliseconds, onRefused, post, write } from "./common.js";
import * as stream from "./stream.js";

const WARN_MS = 5 * 60_000;
const LOOK_MS = 1000;
const CLOCKS_MS = 2000; // by which the console may be ahead
const EXPIRED = "Your token has expired. Log in with a new one.";

let ends = null; // when the token expires, by the browser's clock

const ask = async () => (await json("api/session")).body;

// Nothing is shown to somebody who is not logged in any more.
function leave(why) {
  ends = null;
  stream.stop();
  document.body.classList.add("out");
  [$("login").hidden, $("who").hidden] = [false, true];
  write($("login-why"), why);
  $("token").focus();
}

async function logIn(event) {
  event.preventDefault();
  const token = $("token").value;
  $("token").value = "";
  try {
    await post("api/session", { token });
    // Another person may see other things.
    location.reload();
  } catch (error) {
    write($("login-error"), error.message);
    $("token").focus();
  }
}

async function logOut() {
  await json("api/session", { method: "DELETE" }).catch(() => {});
  location.reload();
}

function tellWhenItEnds() {
  if (ends === null) return;
  const left = ends - Date.now();
  if (left <= 0) return leave(EXPIRED);
  const soon = left < WARN_MS;
  const minutes = milliseconds(Math.ceil(left / 60_000) * 60_000);
  write($("expires"), soon ? `Your token expires within ${minutes}: log in again with a new one.` : "");
}

function show({ subject, scopes, seconds_left }) {
  ends = Date.now() + seconds_left * 1000;
  const until = new Date(ends).toLocaleString();
  write($("who-is"), `${subject || "somebody"} may ${scopes.join(", ")} until ${until}.`);
  $("who").hidden = false;
  tellWhenItEnds();
}

// The console refuses what the page asks, or its stream: because nobody is logged in any more, or for another reason.
async function refused() {
  const session = await ask().catch(() => null);
  if (!session?.asks || session.subject !== undefined || !$("login").hidden) return;
  // The console may find out first.
  const expired = ends !== null && Date.now() > ends - CLOCKS_MS;
  leave(expired ? EXPIRED : "Your login has ended.");
}

export async function start() {
  $("login-form").addEventListener("submit", logIn);
  $("log-out").addEventListener("click", logOut);
  setInterval(tellWhenItEnds, LOOK_MS);
  onRefused(refused);
  // A console that does not answer is waited for by the stream.
  const session = await ask().catch(() => ({ asks: false }));
  if (session.asks && session.subject === undefined) return leave("");
  if (session.asks) show(session);
  stream.start();
}
