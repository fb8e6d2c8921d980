"""Worked solutions for training problems that have none: from datasets, an endpoint, or the local engine."""
