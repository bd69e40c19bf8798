"""holdsvc takes inventory holds over gRPC and keeps them in PostgreSQL."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("holdsvc")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
