"""Real servers for tests: started on free ports, ended by their own process ids."""
