// Limits and how much of them is used.

import { call } from "./api.js";
import { el, number, table, words } from "./dom.js";

/** The page of limits. */
export function showLimits(page) {
  const body = el("tbody");
  const message = el("p.quiet", { role: "status" }, "Reading the limits …");
  const columns = ["Limit", "Items", "For each", "Counts", "Most", "Window", "State"];
  page.replaceChildren(el("section", {}, el("h1", {}, "Limits"), message, table(columns, body)));
  load();

  async function load() {
    try {
      const { limits = [] } = await call("Limit", "ListLimits", { pageSize: 200 });
      body.replaceChildren(...limits.map(row));
      message.textContent = limits.length ? "" : "There is no limit: set one with LimitService.SetLimit.";
    } catch (error) {
      message.textContent = error.message;
    }
    message.hidden = !message.textContent;
  }
  return () => {};
}

function row(limit) {
  const items = [limit.skuPrefix ? `${limit.skuPrefix}…` : "all", limit.pool === undefined ? "" : `pool ${limit.pool || "(default)"}`];
  return el(
    "tr",
    {},
    el("td", {}, limit.limitId),
    el("td", {}, items.filter(Boolean).join(", ")),
    el("td", {}, words(limit.per, "PER_")),
    el("td", {}, words(limit.counts, "COUNTS_")),
    el("td.count", {}, number.format(Number(limit.maxQuantity ?? 0))),
    el("td", {}, limit.window ?? ""),
    el("td", {}, words(limit.state, "STATE_")),
  );
}
