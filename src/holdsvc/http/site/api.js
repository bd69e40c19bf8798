// Calls of the service by the Connect protocol: JSON over POST.

const KEY = "holdsvc-key";
const TIMEOUT_MS = 15_000;

const SERVICES = {
  Reservation: "inventoryhold.v1.ReservationService",
  Inventory: "inventoryhold.v1.InventoryService",
  Admin: "inventoryhold.v1.AdminService",
  Limit: "inventoryhold.v1.LimitService",
  Waitlist: "inventoryhold.v1.WaitlistService",
};

/** A refused call: the gRPC code, the reason of the catalogue, and the message, which says what to do. */
export class Refused extends Error {
  constructor(code, reason, message) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/** The key lives as long as this tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** The headers that say who calls. */
export function identity() {
  return key.get() ? { "x-api-key": key.get() } : {};
}

/** Calls e.g. ("Reservation", "Cancel", {…}) and returns the answer; throws Refused. */
export async function call(service, method, request = {}) {
  let answer;
  try {
    answer = await fetch(`${SERVICES[service]}/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...identity() },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (error) {
    const slow = error.name === "TimeoutError";
    throw new Refused("unavailable", "", slow ? "the service did not answer in time" : "the service cannot be reached");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw refusal(answer.status, body);
  return body;
}

/** A refusal from the JSON of an error. */
export function refusal(status, body) {
  const info = (body.details ?? []).find((detail) => detail.type === "google.rpc.ErrorInfo");
  return new Refused(body.code ?? `HTTP ${status}`, info?.debug?.reason ?? "", body.message ?? `HTTP status ${status}`);
}

/** A new request id: a change that is sent again with it takes effect once. */
export function requestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `console-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Calls a change with a request id, and once more with the same one if its outcome is not known. */
export async function change(service, method, request) {
  const sent = { ...request, requestId: requestId() };
  try {
    return await call(service, method, sent);
  } catch (error) {
    if (!["unavailable", "unknown", "deadline_exceeded"].includes(error.code)) throw error;
    return call(service, method, sent);
  }
}
