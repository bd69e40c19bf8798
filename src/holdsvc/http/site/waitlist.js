// Who waits for units, who has an offer, and what became of the others.

import { call } from "./api.js";
import { ask, attempt } from "./dialogs.js";
import { el, moment, number, say, table, words } from "./dom.js";
import { linesOf } from "./holds.js";

const PAGE = 100;
const STATES = ["WAITING", "OFFERED", "TAKEN", "LAPSED", "LEFT"];

/** The page of the waitlist; `query` may name a sku. */
export function showWaitlist(page, query, caller) {
  const sku = el("input", { type: "search", placeholder: "sku", "aria-label": "Item" });
  sku.value = query.get("sku") ?? "";
  const state = el("select", { "aria-label": "State" }, el("option", { value: "" }, "every state"));
  state.append(...STATES.map((name) => el("option", { value: name }, name.toLowerCase())));
  state.value = query.get("state") ?? "WAITING";
  const form = el("form.toolbar", { role: "search", onsubmit: search }, sku, state, el("button.main", {}, "Search"));
  const body = el("tbody");
  const message = el("p.quiet", { role: "status" });
  const more = el("button", { type: "button", hidden: true, onclick: () => load(true) }, "More");
  const columns = ["Place", "State", "Units", "Holder", "Reference", "Joined", "Offer", ""];
  page.replaceChildren(el("section", {}, el("h1", {}, "Waitlist"), form, message, table(columns, body), more));
  let token = "";
  let ended = false;

  function search(event) {
    event.preventDefault();
    load();
  }

  async function load(continued = false) {
    const request = { pageSize: PAGE };
    if (sku.value.trim()) request.sku = sku.value.trim();
    if (state.value) request.states = [`STATE_${state.value}`];
    if (continued) request.pageToken = token;
    try {
      const answer = await call("Waitlist", "ListWaitlistEntries", request);
      if (ended) return;
      if (!continued) body.replaceChildren();
      body.append(...(answer.entries ?? []).map(row));
      token = answer.nextPageToken ?? "";
      more.hidden = !token;
      const none = token ? "None of the first fits: look at more." : "No entry fits.";
      say(message, body.childElementCount ? "" : none);
    } catch (error) {
      say(message, error.message);
    }
    message.hidden = !message.textContent;
  }

  function row(entry) {
    const name = words(entry.state, "STATE_");
    const offer = entry.reservationId && el("a", { href: `#reservation/${entry.reservationId}` }, moment(entry.offerTime) || "offer");
    const passed = entry.passReason ? ` (passed: ${words(entry.passReason, "PASS_REASON_")})` : "";
    const may = caller.may("waitlist.manage") || (caller.may("waitlist.join") && entry.client === caller.client);
    const leaves = may && ["waiting", "offered"].includes(name);
    return el(
      "tr",
      {},
      el("td.count", {}, entry.position ? number.format(Number(entry.position)) : ""),
      el("td", {}, el(`span.state.${name}`, {}, name), passed),
      el("td", {}, linesOf(entry)),
      el("td", {}, entry.holder ?? ""),
      el("td", {}, entry.reference ?? ""),
      el("td", {}, moment(entry.createTime)),
      el("td", {}, offer || ""),
      el("td", {}, leaves && el("button.danger", { type: "button", onclick: (event) => leave(event, entry) }, "Take off")),
    );
  }

  async function leave(event, entry) {
    const button = event.currentTarget;
    const given = await ask({
      title: `Take ${entry.holder} off the waitlist`,
      text: "The place is lost; an offer is given back and goes to the next.",
      action: "Take off",
      danger: true,
      fields: [{ name: "reason", label: "Reason", attributes: { maxlength: 500 } }],
    });
    if (!given) return;
    const request = { entryId: entry.entryId, reason: given.reason };
    if (await attempt(button, () => call("Waitlist", "LeaveWaitlist", request), "Taken off the waitlist.")) await load();
  }

  load();
  return () => (ended = true);
}
