"""Studies: which trials to make, by whom, and what came of them. No stage of the pipeline imports this package."""
