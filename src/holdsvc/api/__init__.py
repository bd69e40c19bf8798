"""The wire: the only rooms that know protobuf and gRPC status codes."""
