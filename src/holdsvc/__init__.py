"""holdsvc takes inventory holds over gRPC and keeps them in PostgreSQL."""
