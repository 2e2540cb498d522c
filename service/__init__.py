"""Online: a checkpoint answering over HTTP. `python -m service --help` lists the settings."""
