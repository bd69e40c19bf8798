// Holds two units, sells them, and follows every sale from where it stopped the last time.
//
//     npm install && npm run build && npm start -- 127.0.0.1:50051 mug place.txt
//
// If the service requires a key, set HOLDSVC_API_KEY.
import { type ServiceError, Metadata, credentials, loadPackageDefinition, status } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { randomUUID } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

import type { ProtoGrpcType as Events } from "./gen/event_service";
import type { ConfirmResponse__Output } from "./gen/inventoryhold/v1/ConfirmResponse";
import type { ReserveResponse__Output } from "./gen/inventoryhold/v1/ReserveResponse";
import type { ProtoGrpcType as Reservations } from "./gen/reservation_service";

const [address = "127.0.0.1:50051", sku = "mug", place = "place.txt"] = process.argv.slice(2);
const protos = process.env.PROTOS ?? "../../protos";
const files = ["inventoryhold/v1/reservation_service.proto", "inventoryhold/v1/event_service.proto"];
const options = { includeDirs: [protos], longs: String, enums: String, defaults: true, oneofs: true };
const contract = loadPackageDefinition(loadSync(files, options)) as unknown as Reservations & Events;

// gRPC repeats a call that met a restarting server; the request_id makes that safe.
const policy = readFileSync(`${protos}/inventoryhold/v1/retry_policy.json`, "utf8");
const channel = [address, credentials.createInsecure(), { "grpc.service_config": policy }] as const;
const reservations = new contract.inventoryhold.v1.ReservationService(...channel);
const events = new contract.inventoryhold.v1.EventService(...channel);
const metadata = new Metadata();
if (process.env.HOLDSVC_API_KEY) metadata.set("x-api-key", process.env.HOLDSVC_API_KEY);

/** Makes a unary call that ends within ten seconds. */
function answer<A>(start: (options: object, done: (error: ServiceError | null, found?: A) => void) => unknown) {
  return new Promise<A>((resolve, reject) => {
    start({ deadline: Date.now() + 10_000 }, (error, found) => (error ? reject(error) : resolve(found!)));
  });
}

async function sell(): Promise<string> {
  const wanted = { requestId: randomUUID(), lines: [{ sku, quantity: 2 }] };
  const held = await answer<ReserveResponse__Output>((o, done) => reservations.Reserve(wanted, metadata, o, done));
  const reservationId = held.reservation!.reservationId;
  console.log(`held ${reservationId}`);
  const sale = { requestId: randomUUID(), reservationId };
  const sold = await answer<ConfirmResponse__Output>((o, done) => reservations.Confirm(sale, metadata, o, done));
  console.log(`sold as order ${sold.reservation!.orderId}`);
  return reservationId;
}

/** Prints each sale once; the place is written when its events have been handled. */
async function follow(untilId: string): Promise<void> {
  for (;;) {
    const resumeToken = existsSync(place) ? readFileSync(place, "utf8") : "";
    const request = { resumeToken, fromOldest: !resumeToken, types: ["EVENT_TYPE_CONFIRMED" as const] };
    const stream = events.StreamEvents(request, metadata);
    try {
      for await (const message of stream) {
        const ids = message.events.map((event: any) => event.reservation.reservationId as string);
        ids.forEach((id: string) => console.log(`event: sold ${id}`));
        writeFileSync(place, message.resumeToken);
        if (ids.includes(untilId)) return stream.cancel();
      }
    } catch (error) {
      // A server that restarts ends its streams so: another one goes on from the place.
      if ((error as ServiceError).code !== status.UNAVAILABLE) throw error;
      await pause(500);
    }
  }
}

sell()
  .then(follow)
  .finally(() => [reservations, events].forEach((client) => client.close()));
