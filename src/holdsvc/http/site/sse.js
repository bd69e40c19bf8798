// Server-sent events by fetch: EventSource cannot send a key.

import { identity, refusal } from "./api.js";

const SILENCE_MS = 45_000; // a heartbeat comes each 15 s
const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 10_000;

/**
 * Follows a stream until `stop()`; connects again, with the last event's id, whenever it ends.
 * @param {string} path
 * @param {{message: (value: object) => void, state: (state: string, detail: object) => void, begin?: () => void}} on
 *   state is "live", "lost" (with `retryMs`) or "refused" (with `error`; then nothing follows)
 */
export function follow(path, on) {
  const ending = new AbortController();
  run(path, on, ending.signal);
  return { stop: () => ending.abort() };
}

async function run(path, on, ended) {
  let pause = PAUSE_MIN_MS;
  let lastId = "";
  while (!ended.aborted) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    ended.addEventListener("abort", stop);
    try {
      const headers = { accept: "text/event-stream", ...identity(), ...(lastId ? { "last-event-id": lastId } : {}) };
      const answer = await fetch(path, { headers, signal: attempt.signal, cache: "no-store" });
      if (!answer.ok) throw refusal(answer.status, await answer.json().catch(() => ({})));
      on.begin?.();
      on.state("live", {});
      for await (const event of events(answer.body, attempt)) {
        pause = PAUSE_MIN_MS;
        if (event.id) lastId = event.id;
        if (event.data && event.type === "message") on.message(JSON.parse(event.data));
        if (event.type === "end") throw refusal(0, JSON.parse(event.data));
      }
    } catch (error) {
      if (ended.aborted) return;
      if (["unauthenticated", "permission_denied", "invalid_argument"].includes(error.code)) {
        on.state("refused", { error });
        return;
      }
      // The events since then are gone: what follows begins now.
      if (error.code === "out_of_range") lastId = "";
    } finally {
      ended.removeEventListener("abort", stop);
      attempt.abort();
    }
    if (ended.aborted) return;
    on.state("lost", { retryMs: pause });
    await sleep(pause, ended);
    pause = Math.min(PAUSE_MAX_MS, pause * 2);
  }
}

async function* events(body, attempt) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const silence = setTimeout(() => attempt.abort(), SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield parsed(block);
  }
}

function parsed(block) {
  const event = { id: "", type: "message", data: "" };
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const [field, value] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
    if (field === "id") event.id = value;
    if (field === "event") event.type = value;
    if (field === "data") event.data += value;
  }
  return event;
}

function sleep(ms, ended) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    ended.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
