"""Everything that knows SQL: pool, embedded server, migrations, and one module per family of functions."""
