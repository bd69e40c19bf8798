// Holds two units, sells them, and follows every sale from where it stopped the last time.
//
//	buf generate && go mod tidy && PROTOS=../../protos go run . 127.0.0.1:50051 mug place.txt
//
// If the service requires a key, set HOLDSVC_API_KEY. Versions of grpc-go before 1.40 retry with GRPC_GO_RETRY=on only.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.org/hold/gen/inventoryhold/v1"
)

func main() {
	address, sku, place := os.Args[1], os.Args[2], os.Args[3]
	// gRPC repeats a call that met a restarting server; the request_id makes that safe.
	policy, err := os.ReadFile(os.Getenv("PROTOS") + "/inventoryhold/v1/retry_policy.json")
	check(err)
	connection, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithDefaultServiceConfig(string(policy)))
	check(err)
	defer connection.Close()
	every := context.Background()
	if key := os.Getenv("HOLDSVC_API_KEY"); key != "" {
		every = metadata.AppendToOutgoingContext(every, "x-api-key", key)
	}
	id := sell(every, pb.NewReservationServiceClient(connection), sku)
	follow(every, pb.NewEventServiceClient(connection), place, id)
}

func sell(every context.Context, reservations pb.ReservationServiceClient, sku string) string {
	ctx, cancel := context.WithTimeout(every, 10*time.Second)
	defer cancel()
	lines := []*pb.ItemQuantity{{Sku: sku, Quantity: 2}}
	held, err := reservations.Reserve(ctx, &pb.ReserveRequest{RequestId: newID(), Lines: lines})
	check(err)
	id := held.Reservation.ReservationId
	fmt.Println("held", id)
	target := &pb.ConfirmRequest_ReservationId{ReservationId: id}
	sold, err := reservations.Confirm(ctx, &pb.ConfirmRequest{RequestId: newID(), Target: target})
	check(err)
	fmt.Println("sold as order", sold.Reservation.OrderId)
	return id
}

// follow prints each sale once; the place is written when its events have been handled.
func follow(every context.Context, events pb.EventServiceClient, place string, untilID string) {
	for {
		token, _ := os.ReadFile(place)
		request := &pb.StreamEventsRequest{ResumeToken: string(token), FromOldest: len(token) == 0}
		request.Types = []pb.EventType{pb.EventType_EVENT_TYPE_CONFIRMED}
		stream, err := events.StreamEvents(every, request)
		for err == nil {
			var message *pb.StreamEventsResponse
			if message, err = stream.Recv(); err != nil {
				break
			}
			last := ""
			for _, event := range message.Events {
				last = event.GetReservation().ReservationId
				fmt.Println("event: sold", last)
			}
			check(os.WriteFile(place, []byte(message.ResumeToken), 0o600))
			if last == untilID {
				return
			}
		}
		// A server that restarts ends its streams so: another one goes on from the place.
		if status.Code(err) != codes.Unavailable {
			check(err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func newID() string {
	id := make([]byte, 16)
	_, err := rand.Read(id)
	check(err)
	return fmt.Sprintf("%x", id)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
