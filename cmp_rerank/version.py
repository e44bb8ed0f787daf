"""The version of the package."""

from functools import cache
from importlib import metadata


def package_version() -> str:
    """The installed version; "0+unknown" for a source tree that is not installed."""
    try:
        return metadata.version("cmp-rerank")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@cache
def versions_with(*others: str) -> dict[str, str]:
    """The versions of this package and of others, which are installed."""
    return {"cmp-rerank": package_version()} | {name: metadata.version(name) for name in others}
