"""Other people's languages: each translates, none decides."""
