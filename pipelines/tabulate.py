"""Runs stage ``tabulate``: finished runs become reports/."""

from pathlib import Path

from pipelines.no_options import refuse_options
from sdpg import paths
from sdpg.errors import entry_point


def main() -> None:
    """Writes the tables, the figure and the report, and prints the main table and where everything is."""
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.locks import exclusive
    from sdpg.params import PARAMS_FILE, load_params
    from sdpg.records.provenance import fingerprint
    from sdpg.records.tracking import log_pipeline_results, stage_run
    from sdpg.records.work import read_fingerprint, remove_work
    from sdpg.results.dvc_files import METRICS, PLOTS, table_metrics
    from sdpg.results.report import print_table, write_reports

    params = load_params()
    runs = [paths.run_folder(method, seed) for method in params.run.methods for seed in params.run.seeds]
    inputs = {run.name: (run, _digest(run)) for run in runs}
    identity = fingerprint("tabulate", params.report.model_dump(mode="json"), [digest for _, digest in inputs.values()])
    settings = params.report.model_dump(mode="json")
    with exclusive(paths.REPORTS), stage_run(params, "tabulate", "tabulate", identity, inputs, {"report": settings}):
        written = write_reports(params, Path())
        # What DVC draws says nothing that the tables do not.
        shown = [path for path in written if not {PLOTS, METRICS} & set(path.parts)]
        log_pipeline_results(params, table_metrics(), [PARAMS_FILE, *shown])
    for run in runs:
        # DVC has the outputs of finished runs by now, and their work in progress is needed no more.
        remove_work(run.name, read_fingerprint(run / "COMPLETE"))
    print_table()
    # Of a folder, its name is enough.
    places = dict.fromkeys(path if path.parent == paths.REPORTS else paths.REPORTS / path.parts[1] for path in written)
    print("Written:", ", ".join(map(str, places)))


def _digest(run: Path) -> str:
    """Returns the digest of a run's files: that of its manifest, to which they are compared as they are read."""
    from sdpg.records.manifest import read_manifest
    from sdpg.records.provenance import hash_files

    manifest = read_manifest(run)
    return manifest.digest() if manifest else hash_files([run], run)


if __name__ == "__main__":
    refuse_options(__doc__)
    entry_point(main)
