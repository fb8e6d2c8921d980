"""The app: compares runs and opens any rollout down to the token. It imports neither torch nor transformers."""
