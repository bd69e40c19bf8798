"""The HTTP door: every rpc over HTTP/1.1 with JSON, beside the gRPC servers of a process."""
