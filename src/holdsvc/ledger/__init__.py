"""The ledger: the only rooms that know SQL and psycopg."""
