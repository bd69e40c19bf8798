// Reservations: search, and holds with their time running down.

import { call } from "./api.js";
import { el, moment, number, remaining, say, table } from "./dom.js";

const PAGE = 100;
const REFRESH_MS = 5000;
const TICK_MS = 1000;

const KINDS = [
  ["reference", "Reference"],
  ["holder", "Holder"],
  ["orderId", "Order"],
  ["reservationId", "Reservation id"],
  ["sku", "Item (sku)"],
];
const STATES = ["HELD", "CONFIRMED", "FULFILLED", "CANCELLED", "EXPIRED", "REFUNDED"];

/** The name of a state without its prefix. */
export const stateOf = (reservation) => (reservation.state ?? "STATE_UNSPECIFIED").replace("STATE_", "");

/** What is asked for, in short: 2 × seat, 1 × bed and 3 more. */
export function linesOf(reservation) {
  const lines = reservation.lines ?? [];
  const first = lines.slice(0, 2).map((line) => `${number.format(Number(line.quantity))} × ${line.sku}`);
  return first.join(", ") + (lines.length > 2 ? ` and ${lines.length - 2} more` : "");
}

/** A clock of the time that a hold has; `tick` renews it. */
export function clock(reservation) {
  const element = el("span.clock");
  const [begin, end] = [Date.parse(reservation.createTime), Date.parse(reservation.expireTime)];
  const bar = el("progress", { max: 1, "aria-hidden": "true" });
  const text = el("span");
  element.append(bar, text);
  const tick = () => {
    const left = (end - Date.now()) / 1000;
    say(text, remaining(left));
    bar.value = Math.max(0, Math.min(1, left / ((end - begin) / 1000)));
    element.classList.toggle("soon", left < 60);
  };
  tick();
  return { element, tick };
}

/** The page of reservations; `query` has what to look for, as in #holds?holder=ann. */
export function showHolds(page, query) {
  const given = KINDS.find(([kind]) => query.has(kind));
  const kind = el("select", { "aria-label": "Search by" }, ...KINDS.map(([id, label]) => el("option", { value: id }, label)));
  const text = el("input", { type: "search", placeholder: "exactly as stored", "aria-label": "Search for" });
  const states = el("select", { "aria-label": "State" }, el("option", { value: "" }, "every state"));
  states.append(...STATES.map((state) => el("option", { value: state }, state.toLowerCase())));
  states.value = query.get("state") ?? (given ? "" : "HELD");
  if (given) [kind.value, text.value] = [given[0], query.get(given[0])];
  const rows = el("tbody");
  const message = el("p.quiet", { role: "status" });
  const more = el("button", { type: "button", hidden: true, onclick: () => load(true) }, "Older ones");
  const form = el("form.toolbar", { role: "search", onsubmit: search }, kind, text, states, el("button.main", {}, "Search"));
  const columns = ["State", "Units", "Holder", "Reference", "Order", "Made", "Time left"];
  page.replaceChildren(el("section", {}, form, message, table(columns, rows), more));

  let clocks = [];
  let token = "";
  let older = false;
  let reading = 0;

  function search(event) {
    event.preventDefault();
    const wanted = new URLSearchParams();
    if (text.value.trim()) wanted.set(kind.value, text.value.trim());
    wanted.set("state", states.value);
    const hash = `#holds?${wanted}`;
    if (location.hash === hash) load();
    else location.hash = hash;
  }

  async function load(continued = false) {
    const turn = (reading += 1);
    if (kind.value === "reservationId" && text.value.trim()) {
      location.hash = `#reservation/${encodeURIComponent(text.value.trim())}`;
      return;
    }
    const request = { pageSize: PAGE };
    if (text.value.trim()) request[kind.value] = text.value.trim();
    if (states.value) request.states = [`STATE_${states.value}`];
    if (continued) request.pageToken = token;
    try {
      const answer = await call("Reservation", "ListReservations", request);
      if (turn !== reading) return;
      const found = answer.reservations ?? [];
      older = continued;
      if (!continued) {
        rows.replaceChildren();
        clocks = [];
      }
      rows.append(...found.map(row));
      token = answer.nextPageToken ?? "";
      more.hidden = !token;
      const none = token ? "None of the newest fits: look at older ones." : "No reservation fits.";
      say(message, rows.childElementCount ? "" : none);
    } catch (error) {
      if (turn === reading) say(message, error.message);
    }
    message.hidden = !message.textContent;
  }

  function row(reservation) {
    const state = stateOf(reservation);
    const left = el("td");
    if (state === "HELD") {
      const own = clock(reservation);
      clocks.push(own);
      left.append(own.element);
    }
    const open = el("a", { href: `#reservation/${reservation.reservationId}` }, linesOf(reservation));
    return el(
      "tr",
      {},
      el("td", {}, el(`span.state.${state.toLowerCase()}`, {}, state.toLowerCase())),
      el("td", {}, open),
      ...["holder", "reference", "orderId"].map((name) => el("td", {}, reservation[name] ?? "")),
      el("td", {}, moment(reservation.createTime)),
      left,
    );
  }

  const ticking = setInterval(() => clocks.forEach((each) => each.tick()), TICK_MS);
  // Pages that were asked for stay as they are; the first one is kept fresh, unless a person is in the middle of it.
  const refreshing = setInterval(() => {
    if (!document.hidden && !older && !rows.contains(document.activeElement) && document.activeElement !== text) load();
  }, REFRESH_MS);
  load();
  return () => {
    clearInterval(ticking);
    clearInterval(refreshing);
    reading = -1;
  };
}
