"""The machine under a command: paths, files, hashes, devices, processes, the hub; errors as one line."""
