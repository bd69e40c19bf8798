"""Inventory holds over gRPC and PostgreSQL."""
