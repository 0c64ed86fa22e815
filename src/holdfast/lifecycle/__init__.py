"""The only place where stages meet: the loop, told in order."""
