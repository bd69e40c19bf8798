// A shop's page: live stock, and a hold that is confirmed. Written for browsers; Node runs it too:
//
//     npm install && npm run build && npm run start:web -- http://127.0.0.1:8080 mug
//
// `buf` must be on PATH for the build. If the service requires a key, set HOLDSVC_API_KEY.
import { type Interceptor, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { InventoryService } from "./gen/es/inventoryhold/v1/inventory_service_pb";
import { ReservationService } from "./gen/es/inventoryhold/v1/reservation_service_pb";

const [baseUrl = "http://127.0.0.1:8080", sku = "mug"] = process.argv.slice(2);
const key = process.env.HOLDSVC_API_KEY;

const withKey: Interceptor = (next) => (request) => {
  if (key) request.header.set("x-api-key", key);
  return next(request);
};
const transport = createConnectTransport({ baseUrl, interceptors: [withKey] });
const inventory = createClient(InventoryService, transport);
const reservations = createClient(ReservationService, transport);

/** Calls again, with the same request_id, while the service cannot be reached: that is safe. */
async function again<A>(call: () => Promise<A>): Promise<A> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (attempt === 8 || ConnectError.from(error).code !== Code.Unavailable) throw error;
      await new Promise((done) => setTimeout(done, 100 * 2 ** attempt * Math.random()));
    }
  }
}

async function sell(): Promise<void> {
  const requestId = crypto.randomUUID();
  const lines = [{ sku, quantity: 2n }];
  const { reservation } = await again(() => reservations.reserve({ requestId, lines }, { timeoutMs: 5_000 }));
  const target = { case: "reservationId" as const, value: reservation!.reservationId };
  await again(() => reservations.confirm({ requestId: `${requestId}-confirm`, target }, { timeoutMs: 5_000 }));
  console.log(`sold ${reservation!.reservationId}`);
}

/** Shows the stock until `units` are sold; a broken stream is opened again and begins with the present state. */
async function watch(units: bigint): Promise<void> {
  for (;;) {
    const end = new AbortController();
    try {
      for await (const message of inventory.watchInventory({ items: [{ sku }] }, { signal: end.signal })) {
        for (const item of message.items) {
          console.log(`${item.sku}: ${item.remaining} remain`);
          if (item.confirmed >= units) return end.abort();
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
      await new Promise((done) => setTimeout(done, 500));
    }
  }
}

sell().then(() => watch(2n));
