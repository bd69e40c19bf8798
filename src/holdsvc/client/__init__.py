"""What other services import to call this one."""
