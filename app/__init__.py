"""The app: compares runs and opens any rollout down to the token. Imports neither torch nor transformers."""
