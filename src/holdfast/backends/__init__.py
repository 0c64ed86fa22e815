"""What fulfils the ports, one file per kind. Only ``workspace`` picks among them."""
