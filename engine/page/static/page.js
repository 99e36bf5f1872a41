// The page of a worker: it listens to the stream and hands each part to its panels.
//
// Read after this: panels.js (what each panel shows), charts.js (how a chart is drawn).
//
// Why no EventSource: it sends no Authorization header and tells no status, and the token must be in neither
// the address nor a cookie.  The stream is the same one; what EventSource does is listen() and again() below.

import { Panels } from "./panels.js";

const STREAM = "/page/stream";
const SILENT_MS = 15_000; // a stream speaks each second
const AGAIN_MS = [1_000, 2_000, 5_000, 10_000];
const TOKEN = "headrace-token"; // in this tab alone, until it is closed

const link = document.getElementById("link");
const door = document.getElementById("door");
const panels = new Panels();

let failures = 0;
let listening = null;
let waiting = 0;

/** Take parts of the stream until it ends; throw what ends it. */
async function take(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n");
      panels.show(name.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
    }
  }
}

async function listen() {
  clearTimeout(waiting);
  const own = new AbortController();
  listening = own;
  let silence = 0;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => own.abort(), SILENT_MS);
  };
  try {
    heard();
    const token = sessionStorage.getItem(TOKEN);
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    const answer = await fetch(STREAM, { headers, cache: "no-store", signal: own.signal });
    if (answer.status === 401) {
      askForToken(token !== null);
      return;
    }
    if (!answer.ok) throw new Error((await answer.text()).trim());
    door.hidden = true;
    failures = 0;
    told("live", "");
    await take(answer.body, heard);
    again("the stream has ended");
  } catch (error) {
    if (!document.hidden) again(error.name === "AbortError" ? "nothing heard" : error.message);
  } finally {
    clearTimeout(silence);
    if (listening === own) listening = null;
  }
}

function again(reason) {
  const wait = AGAIN_MS[Math.min(failures, AGAIN_MS.length - 1)];
  failures += 1;
  told(`${reason}; again in ${wait / 1000} s`, "bad");
  waiting = setTimeout(listen, wait);
}

function told(text, kind) {
  link.textContent = text;
  link.className = kind;
}

function askForToken(wrong) {
  door.hidden = false;
  told(wrong ? "that was another token" : "waiting for the token", "bad");
  document.getElementById("token").focus();
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, document.getElementById("token").value);
  listen();
});

// Nobody looks at a page in the background, so nothing is made for it.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(waiting);
    listening?.abort();
  } else if (listening === null && door.hidden) {
    listen();
  }
});

listen();
