"""Where bytes live: the formats of files, shards, folders that are replaced at once, and the Hub. No model here."""
