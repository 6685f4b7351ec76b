"""What the runs that compare clients share: the recording, the terminal, the picture."""
