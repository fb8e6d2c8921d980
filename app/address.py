"""Says whether the app's server can be reached from other machines, whatever its configuration says."""

from functools import lru_cache
from ipaddress import ip_address

import psutil


@lru_cache(maxsize=1)
def reachable_from_elsewhere() -> tuple[str, ...]:
    """Returns the addresses on which this process listens and that are not this machine's own.

    The sockets themselves are looked at, as flags, environment and several files can each set the address. The result
    is kept: the server listens before the first page is shown, and does not move.
    """
    sockets = psutil.Process().net_connections(kind="tcp")
    listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
    return tuple(sorted({f"{at.ip}:{at.port}" for at in listening if not _is_own(at.ip)}))


def _is_own(text: str) -> bool:
    at = ip_address(text)
    return (getattr(at, "ipv4_mapped", None) or at).is_loopback
