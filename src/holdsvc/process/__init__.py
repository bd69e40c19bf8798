"""The processes of `holdsvc serve`."""
