"""The version of the package."""

from importlib import metadata


def package_version() -> str:
    """The installed version; "0+unknown" for a source tree that is not installed."""
    try:
        return metadata.version("cmp-rerank")
    except metadata.PackageNotFoundError:
        return "0+unknown"
