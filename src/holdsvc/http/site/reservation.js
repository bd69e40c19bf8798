// One reservation: what it has, its trail, and what may be done with it.

import { call, change } from "./api.js";
import { ask, attempt } from "./dialogs.js";
import { el, moment, named, number, table, words } from "./dom.js";
import { clock, stateOf } from "./holds.js";

const TRAIL_PAGE = 200;

/** The page of a reservation. */
export function showReservation(page, id, caller) {
  let clocks = [];
  let ended = false;
  const ticking = setInterval(() => clocks.forEach((each) => each.tick()), 1000);

  async function load() {
    try {
      const [{ reservation }, trail] = await Promise.all([
        call("Reservation", "GetReservation", { reservationId: id }),
        trailOf(id),
      ]);
      if (!ended) draw(reservation, trail);
    } catch (error) {
      if (!ended) page.replaceChildren(el("section", {}, el("h1", {}, "Reservation"), el("p", { role: "status" }, error.message)));
    }
  }

  function draw(reservation, trail) {
    const state = stateOf(reservation);
    clocks = [];
    const title = el("h1", {}, "Reservation ", el(`span.state.${state.toLowerCase()}`, {}, state.toLowerCase()));
    if (state === "HELD") {
      const own = clock(reservation);
      clocks.push(own);
      title.append(own.element);
    }
    page.replaceChildren(
      el("section", {}, title, facts(reservation), lines(reservation), actions(reservation, state)),
      el("section", {}, el("h2", {}, "Trail"), trailTable(trail)),
    );
  }

  function actions(reservation, state) {
    const mine = reservation.client === caller.client || caller.may("reservations.write_all");
    const may = (scope) => mine && caller.may(scope);
    const target = { reservationId: reservation.reservationId };
    const button = (label, kind, question, method, request, done) =>
      el(
        `button${kind}`,
        {
          type: "button",
          onclick: async (event) => {
            const own = event.currentTarget;
            const given = await ask({ action: label, ...question });
            if (!given) return;
            const answer = await attempt(own, () => change("Reservation", method, { ...target, ...request(given) }), done);
            if (answer) await load();
          },
        },
        label,
      );
    const reason = { name: "reason", label: "Reason", attributes: { maxlength: 500 } };
    const found = [];
    if (state === "HELD" && may("confirm")) {
      found.push(
        button("Confirm", ".main", { title: "Confirm this hold", text: "Its units are sold." }, "Confirm", () => ({}), "Confirmed."),
      );
    }
    if (state === "HELD" && may("reserve")) {
      const minutes = { name: "minutes", label: "Minutes from now", type: "number", value: "15", attributes: { min: 1, required: true } };
      found.push(
        button("Extend", "", { title: "Extend this hold", fields: [minutes] }, "Extend", (given) => ({ ttl: `${given.minutes * 60}s` }), "Extended."),
        button(
          "Cancel",
          ".danger",
          { title: "Cancel this hold", action: "Cancel the hold", text: "Its units are given back at once.", danger: true, fields: [reason] },
          "Cancel",
          (given) => ({ reason: given.reason }),
          "Cancelled.",
        ),
      );
    }
    if (state === "EXPIRED" && may("confirm")) {
      found.push(
        button(
          "Confirm all the same",
          ".main",
          { title: "Confirm an expired hold", text: "For a payment that came late: it succeeds if the units are still free." },
          "Confirm",
          () => ({ rescue: true }),
          "Taken again and confirmed.",
        ),
      );
    }
    if (state === "CONFIRMED" && may("fulfil")) {
      found.push(
        button(
          "Fulfil",
          "",
          { title: "Fulfil this reservation", text: "Its units leave the building; the capacity falls by them.", danger: true, fields: [reason] },
          "Fulfil",
          (given) => ({ reason: given.reason }),
          "Fulfilled.",
        ),
      );
    }
    if (["CONFIRMED", "FULFILLED"].includes(state) && may("refund")) {
      const where = {
        name: "where",
        label: "The units",
        options: [
          ["back", "can be sold again"],
          ["off", "are written off"],
        ],
      };
      found.push(
        button(
          "Refund",
          ".danger",
          { title: "Refund this reservation", text: "All that is not refunded yet.", danger: true, fields: [where, reason] },
          "Refund",
          (given) => ({ writeOff: given.where === "off", reason: given.reason }),
          "Refunded.",
        ),
      );
    }
    const quiet = mine ? "" : "It belongs to another client: changing it needs the scope reservations.write_all.";
    return el("div", {}, el("p.actions", {}, ...found), quiet && el("p.quiet", {}, quiet));
  }

  load();
  return () => {
    ended = true;
    clearInterval(ticking);
  };
}

async function trailOf(reservationId) {
  const answer = await call("Reservation", "ListReservationEvents", { reservationId, pageSize: TRAIL_PAGE });
  return { events: answer.events ?? [], more: Boolean(answer.nextPageToken) };
}

function facts(reservation) {
  const known = [
    ["id", reservation.reservationId],
    ["client", reservation.client],
    ["holder", reservation.holder],
    ["reference", reservation.reference],
    ["order", reservation.orderId],
    ["customer", reservation.customer && [reservation.customer.name, reservation.customer.email].filter(Boolean).join(", ")],
    ["made", moment(reservation.createTime)],
    ["expires", moment(reservation.expireTime)],
    ["confirmed", moment(reservation.confirmTime)],
    ["fulfilled", moment(reservation.fulfilTime)],
    ["cancelled", moment(reservation.cancelTime)],
    ["refunded", moment(reservation.refundTime)],
    ["reason", reservation.reason],
    ...Object.entries(reservation.metadata ?? {}).map(([name, value]) => [`metadata ${name}`, value]),
  ].filter(([, value]) => value);
  return el("dl.facts", {}, ...known.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)]));
}

function lines(reservation) {
  const columns = [
    ["quantity", "units"],
    ["confirmedQuantity", "confirmed"],
    ["fulfilledQuantity", "fulfilled"],
    ["refundedQuantity", "refunded"],
    ["returnedQuantity", "returned"],
  ].filter(([name]) => name === "quantity" || (reservation.lines ?? []).some((line) => line[name]));
  const counts = (line) => columns.map(([name]) => el("td.count", {}, number.format(Number(line[name] ?? 0))));
  const rows = (reservation.lines ?? []).map((line) => el("tr", {}, el("td", {}, named(line)), ...counts(line)));
  return table(["Item", ...columns.map(([, label]) => label)], el("tbody", {}, ...rows));
}

function trailTable({ events, more }) {
  const moved = (event) => (event.lines ?? []).map((line) => `${number.format(Number(line.quantity))} × ${named(line)}`).join(", ");
  const rows = events.map((event) =>
    el(
      "tr",
      {},
      el("td", {}, moment(event.occurTime)),
      el("td", {}, words(event.type, "EVENT_TYPE_")),
      el("td", {}, moved(event)),
      el("td", {}, [event.client, event.keyId].filter(Boolean).join(" · ")),
      el("td", {}, event.reason ?? ""),
    ),
  );
  return el(
    "div",
    {},
    table(["When", "What", "Units", "By", "Reason"], el("tbody", {}, ...rows)),
    more && el("p.quiet", {}, `The first ${TRAIL_PAGE} are shown.`),
  );
}
