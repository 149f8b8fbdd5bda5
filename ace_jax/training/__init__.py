"""The training of one or many replicas: a program an epoch, the host's loop, what it keeps."""
