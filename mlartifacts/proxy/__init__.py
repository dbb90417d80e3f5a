"""MLflow's artifact proxy: a server that hands artifacts of its own store on over HTTP."""
