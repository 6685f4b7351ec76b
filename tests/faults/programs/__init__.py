"""Programs that tests run in processes of their own; each is `python -m`-able from the root."""
