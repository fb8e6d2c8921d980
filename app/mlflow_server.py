"""Lists the runs of an MLflow server that was given by option, through its REST API; MLflow itself is not loaded.

Only the server of the option is asked, and never one that an address names: a link must not make the app ask others.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import pandas as pd

from sdpg.errors import UserError
from sdpg.params.section import hide_secrets

SECONDS = 10.0
MOST = 500
"""The number of runs that are listed, the newest."""


@dataclass(frozen=True)
class ServerRun:
    """A run of an MLflow server.

    Attributes:
        id, name, experiment, status: as MLflow's pages show them.
        started: milliseconds since 1970; None where it is not said.
        params, metrics, tags: name → value; of a metric the last one.
    """

    id: str
    name: str
    experiment: str
    status: str
    started: int | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def check(uri: str) -> str:
    """Returns the address of a server without a slash at its end.

    Raises:
        ValueError: if it is no address of http or https.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--mlflow {hide_secrets(uri)!r} is no address of a server, such as http://127.0.0.1:5000")
    return uri.rstrip("/")


def ask(uri: str, what: str, body: Mapping[str, Any] | None = None, **query: Any) -> dict[str, Any]:
    """Returns what the server's API answers: GET with ``query``, or POST with ``body``.

    Raises:
        UserError: if the server does not answer, or answers with an error or with something that is no JSON object.
    """
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    path = f"{parts.path}/api/2.0/mlflow/{what}"
    address = urlunsplit((parts.scheme, host, path, urlencode(query), ""))
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(address, data, headers), timeout=SECONDS) as answer:
            found = json.loads(answer.read())
    except HTTPError as error:
        raise UserError(
            f"{hide_secrets(uri)} answers {what} with {error.code} {error.reason}: is it MLflow's server?"
        ) from None
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{hide_secrets(uri)} does not answer {what} ({reason}): start the server, or correct --mlflow"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{hide_secrets(uri)} answers {what} with no JSON object: it is no MLflow server")
    return found


def _pages(uri: str, what: str, key: str, body: Mapping[str, Any], most: int) -> Iterator[dict[str, Any]]:
    token, seen = None, 0
    while seen < most:
        answer = ask(uri, what, {**body, "max_results": min(most, 100), **({"page_token": token} if token else {})})
        for row in answer.get(key) or []:
            seen += 1
            yield row
        token = answer.get("next_page_token")
        if not token:
            return


def runs(uri: str) -> list[ServerRun]:
    """Returns the newest runs of all experiments, at most :data:`MOST`."""
    experiments = {
        row["experiment_id"]: row["name"] for row in _pages(uri, "experiments/search", "experiments", {}, 1000)
    }
    if not experiments:
        return []
    body = {"experiment_ids": list(experiments), "order_by": ["attributes.start_time DESC"]}
    found = []
    for row in _pages(uri, "runs/search", "runs", body, MOST):
        info, data = row.get("info") or {}, row.get("data") or {}
        named = {kind: {each["key"]: each.get("value") for each in data.get(kind) or []}
                 for kind in ("params", "metrics", "tags")}  # fmt: skip
        found.append(ServerRun(
            str(info.get("run_id")), str(info.get("run_name") or info.get("run_id")),
            str(experiments.get(info.get("experiment_id"))), str(info.get("status")), info.get("start_time"), **named,
        ))  # fmt: skip
    return found


def history(uri: str, run: str, metric: str) -> pd.DataFrame:
    """Returns a metric's values of a run: columns ``step`` and ``value``, in the order of steps."""
    rows = ask(uri, "metrics/get-history", run_id=run, metric_key=metric).get("metrics") or []
    table = pd.DataFrame([(int(row.get("step", 0)), float(row["value"])) for row in rows], columns=["step", "value"])
    return table.sort_values("step", kind="stable", ignore_index=True)


def artifacts(uri: str, run: str) -> pd.DataFrame:
    """Returns the files and folders at the top of a run's artifacts: columns ``path`` and ``bytes``."""
    rows = ask(uri, "artifacts/list", run_id=run).get("files") or []
    return pd.DataFrame([(row["path"], row.get("file_size")) for row in rows], columns=["path", "bytes"])
