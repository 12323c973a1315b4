"""Where the data lives: settings, the embedded server, connections, loading, publishing."""
